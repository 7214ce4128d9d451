import json
import math
import random

import numpy as np
import pytest

from serving import json_reader
from serving.json_reader import Repeated, read
from serving.json_tokens import JsonError, encode

SEEDS = [
    '{"instances": [1.0, 2.5, -3e5, NaN, -Infinity, 1e308, 0.1, 12345678901234567890, 1E-7, -0]}',
    '{"a": {"b64": "YQ=="}, "b": [true, false, null, "x\\u00e9\\ud83d\\ude00\\n\\/"], "a": 1, "c": {"d": 1, "d": 2}}',
    ' \n[[[1, 2], [3, 4]], [[]], {}, {"x": []}] {"more"',
    '\ufeff{"instances": [{"x": [1, 2, 3], "y": "é"}, {"x": [], "y": ""}]}',
]
ALPHABET = list('{}[]:,"\\ue0123456789.-+eENaInf trlsé\n\x00\x01\udcff')


@pytest.fixture
def stepwise(monkeypatch):
    """Reads without Python's own parser."""

    def read_stepwise(content):
        with monkeypatch.context() as changed:
            changed.setattr(json_reader, "_DEPTH_OF_C", 0)
            return read(content)

    return read_stepwise


def outcome(reader, content):
    try:
        return repr(normal(reader(content)))
    except JsonError as error:
        return str(error)


def normal(value):
    """A value as RapidJSON has it: an integer beyond 64 bits is a double."""
    if isinstance(value, dict):
        members = value.members if isinstance(value, Repeated) else value.items()
        return [(key, normal(member)) for key, member in members]
    if isinstance(value, list):
        return [normal(element) for element in value]
    big = isinstance(value, int) and not -(2**63) <= value < 2**64
    return float(value) if big else value


@pytest.mark.parametrize("seed", SEEDS)
def test_the_parser_in_c_changes_nothing(stepwise, seed):
    choose = random.Random(seed)
    values = 0
    for _ in range(3000):
        text = list(seed)
        for _ in range(choose.randrange(4)):
            at = choose.randrange(len(text) + 1)
            text[at : at + choose.randrange(2)] = choose.choices(ALPHABET, k=choose.randrange(3))
        content = encode("".join(text[: choose.randrange(len(text))] if choose.random() < 0.2 else text))
        expected = outcome(stepwise, content)
        assert outcome(read, content) == expected, content
        values += "at offset" not in expected
    assert 100 < values < 2900


def test_what_python_takes_too_is_read_as_python_does(stepwise):
    document = {"a": [1, -2, 2.5, 1e-9, True, None, "é\n", {"b": {}}], "": [[], [[0.1]], -0.0], "big": 2**64 - 1}
    for text in (json.dumps(document), json.dumps(document, indent=3, ensure_ascii=False)):
        assert read(text.encode()) == stepwise(text.encode()) == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The document is empty"),
        ("  ", "The document is empty. at offset: 2"),
        ("\ufeff", "The document is empty. at offset: 3"),
        ('{"a"}', "Missing a colon after a name of object member. at offset: 4"),
        ('{"a":}', "Invalid value. at offset: 5"),
        ('{"a":1,}', "Missing a name for object member. at offset: 7"),
        ('{"a":1 "b"}', "Missing a comma or '}' after an object member. at offset: 7"),
        ('{"é":tru}', "Invalid value. at offset: 9"),
        ("[1 2]", "Missing a comma or ']' after an array element. at offset: 3"),
        ("[1,2,]", "Invalid value. at offset: 5"),
        ("[01]", "Missing a comma or ']' after an array element. at offset: 2"),
        ("[-]", "Invalid value. at offset: 2"),
        ("[1.]", "Miss fraction part in number. at offset: 3"),
        ("[1e+]", "Miss exponent in number. at offset: 4"),
        ("[1e309]", "Number too big to be stored in double. at offset: 1"),
        ("[0,1" + "0" * 309 + "]", "Number too big to be stored in double. at offset: 3"),
        ('["abc', "Missing a closing quotation mark in string. at offset: 5"),
        ('["a\0b"]', "Missing a closing quotation mark in string. at offset: 3"),
        ('["a\tb"]', "Invalid escape character in string. at offset: 3"),
        ('["\\x"]', "Invalid escape character in string. at offset: 2"),
        ('["\\u12g4"]', "Incorrect hex digit after \\u escape in string. at offset: 2"),
        ('["\\ud800x"]', "The surrogate pair in string is invalid. at offset: 2"),
        ('["\\ud800\\u0041"]', "The surrogate pair in string is invalid. at offset: 2"),
    ],
)
def test_an_error_is_told_as_rapidjson_does(stepwise, text, message):
    for reader in (read, stepwise):
        with pytest.raises(JsonError) as raised:
            reader(text.encode())
        assert str(raised.value) == message


def test_the_first_of_two_values_of_a_key_counts():
    value = read(b'{"a": 1, "b": 2, "a": 3}')
    assert dict(value) == {"a": 1, "b": 2}
    assert value.members == [("a", 1), ("b", 2), ("a", 3)]


def test_bytes_that_are_no_text_are_kept():
    assert encode(read(b'["\xff\xc3\xa9\\ud83d\\ude00\\udc00"]')[0]) == b"\xff\xc3\xa9\xf0\x9f\x98\x80\xed\xb0\x80"


def test_numbers_keep_their_kind():
    value = read(b"[1, 1.0, 9223372036854775808, -9223372036854775809.0, 1e5, Inf, -Infinity, NaN, 1e-400]")
    assert list(map(type, value)) == [int, float, int, float, float, float, float, float, float]
    assert value[5] == math.inf
    assert value[6] == -math.inf
    assert math.isnan(value[7])


def test_depth_is_no_error():
    value = read(b"[" * 5000 + b"1" + b"]" * 5000)
    for _ in range(5000):
        (value,) = value
    assert value == 1


def test_an_error_behind_many_numbers_is_found():
    text = json.dumps({"x": np.arange(30_000).reshape(-1, 3).tolist(), "y": np.arange(20_000).tolist()})[:-2]
    with pytest.raises(JsonError, match=rf"Missing a comma or '\]' after an array element. at offset: {len(text)}"):
        read(text.encode())
