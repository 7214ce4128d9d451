"""Arrays of JSON values: nested lists of numbers, strings and base64 objects.

Between a request's JSON and the feeds of a run on the way client -> server -> SavedModel. `array` converts regular
lists a level at a time; whatever is not regular goes element by element, in the order and with the texts of TensorFlow
Serving, and comes out as an array all the same, or as the error that the caller gets.
"""

import base64
import itertools
import re
from typing import Any

import numpy as np
import tensorflow as tf

from serving.json_tokens import encode
from serving.json_writer import quote
from serving.rest_body import is_base64, malformed, type_name
from serving.status import invalid
from serving.tensors import MAX_RANK, dtype_word

# The integers that each dtype takes. Those of the small ones are int32 in JSON, and wrap around.
_INTEGERS = {
    tf.int8: (-(2**31), 2**31 - 1),
    tf.int16: (-(2**31), 2**31 - 1),
    tf.uint8: (-(2**31), 2**31 - 1),
    tf.int32: (-(2**31), 2**31 - 1),
    tf.int64: (-(2**63), 2**63 - 1),
    tf.uint32: (0, 2**32 - 1),
    tf.uint64: (0, 2**64 - 1),
}
_TYPES = {tf.float32: {int, float}, tf.float64: {int, float}, tf.bool: {bool}, tf.string: {str, dict}}
_TYPES |= {dtype: {int} for dtype in _INTEGERS}
_BASE64 = re.compile(rb"\s*(?:[A-Za-z0-9+/]\s*)*+([=.\s]*)")


def array(value: Any, dtype: tf.DType) -> np.ndarray | None:
    """The array of a value whose lists are regular and whose elements all suit the dtype; None for any other."""
    shape, level = [], [value]
    while set(map(type, level)) == {list}:
        sizes = set(map(len, level))
        if len(sizes) > 1 or len(shape) == MAX_RANK:
            return None
        shape.append(sizes.pop())
        level = list(itertools.chain.from_iterable(level))
    flat = _convert(level, dtype)
    return None if flat is None else flat.reshape(shape)


def check_rank(value: Any, alias: str) -> None:
    """Refuses a value that is nested deeper than an array can be.

    Raises:
        tf.errors.InvalidArgumentError: with the text for an input that is no tensor.
    """
    if len(_shape(value)) > MAX_RANK:
        raise invalid(f"tensor parsing error: {alias}")


def fill(value: Any, dtype: tf.DType, elements: list[Any]) -> tuple[int, ...]:
    """Adds the elements of a value, which `check_rank` has seen, to those before them; returns its shape.

    Raises:
        tf.errors.OpError: the lists are ragged, or an element does not suit the dtype.
    """
    shape = _shape(value)
    _fill(value, 0, shape, dtype, elements)
    return shape


def from_elements(elements: list[Any], shape: tuple[int, ...], dtype: tf.DType) -> np.ndarray:
    """The array of elements that `fill` has collected."""
    return _convert(elements, dtype).reshape(shape)


def _shape(value: Any) -> tuple[int, ...]:
    """The sizes of a value's lists, as its first elements say."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _fill(value: Any, level: int, shape: tuple[int, ...], dtype: tf.DType, elements: list[Any]) -> None:
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            raise malformed(value, f"found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {rank}")
        _check_element(value, dtype)
        elements.append(value)
        return
    if level >= rank:
        raise invalid(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    if level == rank - 1 and _convert(value, dtype) is not None:
        elements.extend(value)
        return
    for element in value:
        _fill(element, level + 1, shape, dtype, elements)


def _check_element(value: Any, dtype: tf.DType) -> None:
    if isinstance(value, dict) and dtype == tf.string:
        if not is_base64(value):
            raise malformed(value, "not formatted correctly for base64 data")
        if decode_base64(value["b64"]) is None:
            raise invalid("Unable to base64 decode")
    elif not isinstance(value, dict) and dtype not in _TYPES:
        text = f"Conversion of JSON Value: {quote(value)} to type: {dtype_word(dtype)}"
        raise tf.errors.UnimplementedError(None, None, text)
    elif _convert([value], dtype) is None:
        raise malformed(value, f"Type: {type_name(value)} is not of expected type: {dtype_word(dtype)}")


def _convert(elements: list[Any], dtype: tf.DType) -> np.ndarray | None:
    """A flat array; None if an element does not suit."""
    types = set(map(type, elements))
    if dtype not in _TYPES or not types <= _TYPES[dtype]:
        return None
    if dtype == tf.string:
        return _strings(elements)
    if dtype not in _INTEGERS:
        with np.errstate(over="ignore"):  # 1e39 is an infinity in float32
            return np.array(elements, np.bool_ if dtype == tf.bool else np.float64).astype(dtype.as_numpy_dtype)
    low, high = _INTEGERS[dtype]
    if elements and not low <= min(elements) <= max(elements) <= high:
        return None
    return np.array(elements, np.uint64 if high == 2**64 - 1 else np.int64).astype(dtype.as_numpy_dtype)


def _strings(elements: list[str | dict[str, Any]]) -> np.ndarray | None:
    flat = np.empty(len(elements), object)
    for index, element in enumerate(elements):
        if isinstance(element, str):
            flat[index] = encode(element)
        else:
            flat[index] = decode_base64(element["b64"]) if is_base64(element) else None
            if flat[index] is None:
                return None
    return flat


def decode_base64(text: str) -> bytes | None:
    """Bytes of base64 as absl reads it: with white space, with its padding or without any; None if it is none."""
    content = encode(text)
    match = _BASE64.fullmatch(content)
    if match is None:
        return None
    padding = match.group(1).translate(None, b" \t\n\v\f\r")
    content = content[: match.start(1)].translate(None, b" \t\n\v\f\r")
    missing = -len(content) % 4
    if missing == 3 or len(padding) not in (0, missing):
        return None
    return base64.b64decode(content + b"=" * missing)
