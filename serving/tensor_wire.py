"""Tensors between a message's bytes and arrays, without a message in between.

Under predict_wire.py in the server. Where a TensorProto's bytes are the array's own (tensor_content, packed float_val,
double_val and bool_val), the array is a view of them; strings are cut out one by one. All else is parsed into a
message, for tensors.py. What is saved are protobuf's copies: TensorFlow copies an array that does not begin at a
multiple of 64 bytes, and where it begins in a request is the client's doing.
"""

import math
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2

from serving import tensors
from serving.wire_fields import Field, UnusualError, fields, header

_NUMBERS = {name: field.number for name, field in tensor_pb2.TensorProto.DESCRIPTOR.fields_by_name.items()}
_DTYPE, _SHAPE, _CONTENT, _STRING = (
    _NUMBERS[name] for name in ("dtype", "tensor_shape", "tensor_content", "string_val")
)
_STRINGS = tf.string.as_datatype_enum
_NUMERIC = (
    "float16 bfloat16 float32 float64 bool complex64 complex128 int8 int16 int32 int64 uint8 uint16 uint32 uint64"
)
# NumPy's dtypes by the number that the protocol has for them.
_KINDS = {dtype.as_datatype_enum: np.dtype(dtype.as_numpy_dtype) for dtype in map(tf.as_dtype, _NUMERIC.split())}
# The lists that are packed into the array's own bytes, by the dtype that uses them.
_LISTS = {
    dtype.as_datatype_enum: _NUMBERS[name]
    for dtype, name in ((tf.float32, "float_val"), (tf.float64, "double_val"), (tf.bool, "bool_val"))
}

Part = bytes | memoryview


def read(content: bytes, start: int, end: int) -> np.ndarray | tensor_pb2.TensorProto:
    """The tensor between two places of a message: an array, or the message where its bytes are not the array's.

    Raises:
        google.protobuf.message.DecodeError: there is no TensorProto.
    """
    try:
        found = _array(content, list(fields(content, start, end)))
    except UnusualError:
        found = None
    return tensor_pb2.TensorProto.FromString(content[start:end]) if found is None else found


def write(value: np.ndarray | np.generic | bytes, *, as_content: bool) -> list[Part]:
    """A serialised TensorProto in parts, of which the large one is a view of the array; as tensors.to_proto."""
    array = tensors.as_array(value)
    dtype = tf.as_dtype(array.dtype)
    field = _CONTENT if as_content else _LISTS.get(dtype.as_datatype_enum)
    if not array.size or (dtype == tf.string and as_content) or (dtype != tf.string and field is None):
        proto = tensor_pb2.TensorProto()
        tensors.to_proto(array, proto, as_content=as_content)
        return [proto.SerializeToString()]
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    tensors.set_shape(proto, array)
    if dtype == tf.string:
        parts: list[Part] = [proto.SerializeToString()]
        for row in array.ravel().tolist():
            parts += header(_STRING, len(row)), row
        return parts
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return [proto.SerializeToString() + header(field, len(data)), data]


def _array(content: bytes, found: list[Field]) -> np.ndarray | None:
    by_number = {field.number: field for field in found}
    dtype = by_number.pop(_DTYPE, None)
    shape = _shape(content, by_number.pop(_SHAPE, None))
    if dtype is None or not dtype.is_varint or shape is None or len(shape) > tensors.MAX_RANK or len(by_number) != 1:
        return None
    (number,) = by_number
    if dtype.value == _STRINGS and number == _STRING:
        return _strings(content, [field for field in found if field.number == _STRING], shape)
    if len(found) == len({field.number for field in found}):  # of two of the same, one would add to the other
        return _view(content, by_number[number], dtype.value, shape)
    return None


def _shape(content: bytes, field: Field | None) -> tuple[int, ...] | None:
    """The shape, if all of it is known; a field that is not there is a scalar's."""
    if field is None:
        return ()
    if field.is_varint:
        return None
    proto = tensor_shape_pb2.TensorShapeProto.FromString(content[field.start : field.end])
    shape = tuple(dim.size for dim in proto.dim)
    return None if proto.unknown_rank or min(shape, default=0) < 0 else shape


def _strings(content: bytes, found: Iterable[Field], shape: tuple[int, ...]) -> np.ndarray | None:
    rows = [content[field.start : field.end] for field in found if not field.is_varint]
    if len(rows) != math.prod(shape):
        return None
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array.reshape(shape)


def _view(content: bytes, field: Field, dtype: int, shape: tuple[int, ...]) -> np.ndarray | None:
    kind, size = _KINDS.get(dtype), math.prod(shape)
    if kind is None or field.is_varint or field.number not in (_CONTENT, _LISTS.get(dtype)):
        return None
    if not size or field.end - field.start != size * kind.itemsize:
        return None
    array = np.frombuffer(content, kind, size, field.start).reshape(shape)
    if field.number == _LISTS.get(tf.bool.as_datatype_enum) and array.view(np.uint8).max() > 1:
        return None  # a number of several bytes
    return array
