import base64
import random

import numpy as np
import pytest
import tensorflow as tf

from serving import json_tensor
from serving.json_tensor import decode_base64
from serving.tensors import dtype_word

VALUES = {
    tf.float32: [1, -2.5, 1e39, float("nan"), 2**70],
    tf.float64: [1, -2.5, 1e300, 2**63],
    tf.int32: [1, -(2**31), 2**31 - 1],
    tf.uint8: [1, 255, 256, -1],
    tf.int8: [1, 127, 128],
    tf.int64: [1, -(2**63), 2**63 - 1],
    tf.uint32: [0, 2**32 - 1],
    tf.uint64: [0, 2**64 - 1],
    tf.bool: [True, False],
    tf.string: ["a", "é\udcff", {"b64": "YQ=="}],
}
WRONG = [None, [], [1], "a", 1.5, True, 2**64, -1, {}, {"b64": "!"}, {"b64": "YQ==", "c": 1}]


def stepwise(value, dtype):
    """The array of a value, element by element; None where that is an error."""
    elements = []
    try:
        shape = json_tensor.fill(value, dtype, elements)
    except tf.errors.OpError:
        return None
    return json_tensor.from_elements(elements, shape, dtype)


@pytest.mark.parametrize("dtype", VALUES, ids=lambda dtype: dtype.name)
def test_levels_at_once_and_element_by_element_agree(dtype):
    choose = random.Random(dtype.name)
    right = 0
    for _ in range(600):
        shape = choose.choices(range(4), k=choose.randrange(4))

        def nested(sizes):
            if sizes:
                size = sizes[0] + (choose.random() < 0.05)
                return [nested(sizes[1:]) for _ in range(size)]
            return choose.choice(WRONG if choose.random() < 0.05 else VALUES[dtype])

        value = nested(shape)
        whole, expected = json_tensor.array(value, dtype), stepwise(value, dtype)
        assert (whole is None) == (expected is None), value
        if expected is not None:
            right += 1
            assert (whole.dtype, whole.shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(whole, expected)
    assert 100 < right < 600


def test_values_are_converted_as_the_real_server_does():
    assert json_tensor.array([1e39, 16777217, 0.1], tf.float32).tolist() == [np.inf, 16777216.0, np.float32(0.1)]
    assert json_tensor.array([256, -1], tf.uint8).tolist() == [0, 255]
    assert json_tensor.array([[], []], tf.int32).shape == (2, 0)


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        ([1, [2]], tf.float32, "Encountered list at unexpected level: 1 expected < 1"),
        ([[1], 2], tf.float32, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ([[1], [2, 3]], tf.float32, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ({"a": 1}, tf.string, 'JSON Value: {\n    "a": 1\n} not formatted correctly for base64 data'),
        (
            {"b64": "YQ=="},
            tf.float32,
            'JSON Value: {\n    "b64": "YQ=="\n} Type: Object is not of expected type: float',
        ),
        (3000000000, tf.uint8, "JSON Value: 3000000000 Type: Number is not of expected type: uint8"),
        (False, tf.int32, "JSON Value: false Type: False is not of expected type: int32"),
    ],
)
def test_what_is_wrong_is_told_as_the_real_server_does(value, dtype, text):
    assert json_tensor.array(value, dtype) is None
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        json_tensor.fill(value, dtype, [])
    assert raised.value.message == text


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.uint16, tf.complex64])
def test_a_dtype_without_a_form_is_refused(dtype):
    assert json_tensor.array([1], dtype) is None
    with pytest.raises(tf.errors.UnimplementedError) as raised:
        json_tensor.fill([1], dtype, [])
    assert raised.value.message == f"Conversion of JSON Value: 1 to type: {dtype_word(dtype)}"


def test_what_is_nested_deeper_than_an_array_is_refused():
    value = 1
    for _ in range(64):
        value = [value]
    json_tensor.check_rank(value, "x")
    assert json_tensor.array(value, tf.float32).ndim == 64
    assert json_tensor.array([value], tf.float32) is None
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"^tensor parsing error: x$"):
        json_tensor.check_rank([value], "x")


@pytest.mark.parametrize("length", range(6))
def test_base64_needs_no_padding_and_minds_no_blanks(length):
    content = bytes(range(250, 250 + length)) if length < 6 else b""
    text = base64.b64encode(content).decode()
    for spelling in (text, text.rstrip("="), text.replace("=", "."), f" {text[:1]}\n{text[1:]}\t"):
        assert decode_base64(spelling) == content, spelling


@pytest.mark.parametrize("text", ["Y", "YQ=", "YQ===", "YWI==", "YQ-_", "Y=Q=", "YQ==YQ==", "é"])
def test_what_is_no_base64_is_none(text):
    assert decode_base64(text) is None
