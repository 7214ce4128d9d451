import json

import numpy as np
import pytest

from serving import json_writer
from serving.json_reader import read
from serving.json_writer import elements, nest, quote, string


def exact(value):
    """absl::StrCat, or printf with all digits where that does not come back."""
    digits = 9 if value.dtype == np.float32 else 17
    text = f"{value:.6g}" if value.dtype.type(f"{value:.6g}") == value else f"{value:.{digits}g}"
    return text if "." in text or "e" in text else text + ".0"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_have_the_fewest_digits_that_bring_them_back(dtype):
    random = np.random.default_rng(0)
    bits = random.integers(0, 2 ** (8 * dtype().nbytes), 20_000, dtype=np.uint64)
    values = [
        bits.astype(np.uint32 if dtype == np.float32 else np.uint64).view(dtype),
        np.array([0, -0.0, 1, 16777217, 999999, 1e6, 123456.5, 0.1, 1e-5, 1e-4, 1e10, 3.4028235e38], dtype),
        np.array([np.finfo(dtype).smallest_subnormal, np.finfo(dtype).tiny, np.finfo(dtype).max], dtype),
        random.integers(-1000, 1000, 2000).astype(dtype) / 8,
        np.round(random.normal(size=2000), 4).astype(dtype),
    ]
    values = np.concatenate(values)
    values = values[np.isfinite(values)]
    assert elements(values) == [exact(value) for value in values]


def test_what_is_no_number_has_a_name():
    assert elements(np.array([np.nan, np.inf, -np.inf, 2], np.float32)) == ["NaN", "Infinity", "-Infinity", "2.0"]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64])
def test_integers_are_exact(dtype):
    limits = [np.iinfo(dtype).min, 0, np.iinfo(dtype).max]
    assert elements(np.array(limits, dtype)) == list(map(str, limits))


def test_booleans_strings_and_bytes():
    assert elements(np.array([True, False])) == ["true", "false"]
    assert elements(np.array([b"a\xff", b'"\\\n\x1f/'], object)) == ['"a\udcff"', '"\\"\\\\\\n\\u001F/"']
    assert elements(np.array([b"a"], object), base64_depth=1) == ['{\n        "b64": "YQ=="\n    }']


@pytest.mark.parametrize("dtype", [np.float16, np.uint16, np.complex64])
def test_a_dtype_without_a_form_is_refused(dtype):
    with pytest.raises(json_writer.UnwritableError):
        elements(np.zeros(1, dtype))
    assert elements(np.zeros(0, dtype)) == []


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0), (0, 2), (2, 1, 4)])
def test_arrays_are_nested(shape):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    (line,) = nest(elements(values), shape)
    (lines,) = nest(elements(values), shape, depth=0)
    assert json.loads(line) == json.loads(lines) == values.tolist()
    assert "\n" not in line
    assert lines == json.dumps(values.tolist(), indent=4)
    if shape:
        assert [json.loads(row) for row in nest(elements(values), shape, outer=1)] == values.tolist()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (1e20, "100000000000000000000.0"),
        (1e21, "1e21"),
        (1.5e22, "1.5e22"),
        (0.0001, "0.0001"),
        (1.5e-6, "0.0000015"),
        (1.5e-7, "1.5e-7"),
        (1e-7, "1e-7"),
        (12.34, "12.34"),
        (2**64 - 1, "18446744073709551615"),
        (2**64, "18446744073709552000.0"),
        ("a\n", '"a\\n"'),
        ([], "[]"),
        ({}, "{}"),
        ([1, [True, None]], "[1, [true, null]]"),
        ([1.0, float("nan"), 2.0], "[1.0, "),
        ({"a": [1, 2], "b": {"c": "d"}}, '{\n    "a": [1, 2],\n    "b": {\n        "c": "d"\n    }\n}'),
    ],
)
def test_a_value_is_quoted_as_rapidjson_prints_it(value, text):
    assert quote(value) == text


def test_members_that_repeat_are_quoted_too():
    assert quote(read(b'{"a":1,"a":2}')) == '{\n    "a": 1,\n    "a": 2\n}'


def test_a_long_value_is_cut_behind_the_token_that_passes_the_limit():
    assert quote(list(range(1000)), 10) == "[0, 1, 2, 3"
    assert quote(["é" * 200, 1, 2], 256) == f'["{"é" * 200}"'
    deep = 1
    for _ in range(100_000):
        deep = [deep]
    assert quote(deep) == "[" * 256
    while isinstance(deep, list):  # freed by hand: the interpreter would do it level within level
        (deep,) = deep


def test_an_error_is_a_body():
    assert json_writer.error('a "b"\udcff') == b'{\n    "error": "a \\"b\\"\xff"\n}'
    assert string("\b\f\r\t\0") == '"\\b\\f\\r\\t\\u0000"'
