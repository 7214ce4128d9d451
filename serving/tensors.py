"""Tensors on the wire: TensorProto to NumPy and back, as TensorFlow's runtime reads and writes them.

The server's end of the hop client -> server: what a PredictRequest carries becomes the feed of a run, and its results
become the PredictResponse. Bulk data is not copied element by element in Python.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.wire_fields import LENGTH_DELIMITED, varint

# Where the runtime puts the values of each dtype.
_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int8: "int_val",
    tf.int16: "int_val",
    tf.int32: "int_val",
    tf.uint8: "int_val",
    tf.uint16: "int_val",
    tf.uint32: "uint32_val",
    tf.int64: "int64_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}
_PACKED = (tf.float32, tf.float64)  # on the wire these lists are the array's own bytes, little-endian
_OPAQUE = (tf.resource, tf.variant)
MAX_RANK = 64  # of NumPy's arrays; TensorFlow's own limit is 254
_MAX_BYTES = 2**31
_MAX_FILLED_BYTES = 2**28  # of a tensor that one value may stand for: a few bytes would take all memory
_STRING_BYTES = 64  # of memory, for an empty string in an array


def from_proto(proto: tensor_pb2.TensorProto) -> np.ndarray:
    """The array that a TensorProto stands for; strings become an object array of bytes.

    tensor_content and whole lists of strings are taken as they are. All else goes through the runtime's own parser,
    whose rules are more than a reshape: too few values are filled up with the last one, too many are cut.

    Raises:
        ValueError: the proto holds no tensor, for instance because its shape and its content do not agree; or it is of
            a dtype that no client can feed, whose parser does not survive everything; or it is a few values that stand
            for more than 256 MiB.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    known = min(shape, default=1) >= 0 and not proto.tensor_shape.unknown_rank
    size = math.prod(shape)
    is_string = proto.dtype == types_pb2.DT_STRING
    if known and is_string and not proto.tensor_content and len(proto.string_val) == size:
        return np.array(list(proto.string_val), dtype=object).reshape(shape)
    try:
        dtype = tf.as_dtype(proto.dtype)
        if known and not is_string and proto.tensor_content and len(proto.tensor_content) == size * dtype.size:
            return np.frombuffer(proto.tensor_content, dtype.as_numpy_dtype).reshape(shape)
        if dtype not in _OPAQUE and _is_affordable(proto, size * (_STRING_BYTES if is_string else dtype.size)):
            return as_array(tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy())
    except (TypeError, tf.errors.OpError) as error:
        raise ValueError(f"no tensor: dtype {proto.dtype}, shape {shape}: {error}") from error
    raise ValueError(f"no tensor of numbers or strings, or one that is too large: dtype {proto.dtype}, shape {shape}")


def _is_affordable(proto: tensor_pb2.TensorProto, size: int) -> bool:
    """Whether a tensor of so many bytes may be made of a message; each byte of it can stand for an empty string."""
    return size <= _MAX_FILLED_BYTES or (size <= _MAX_BYTES and size <= _STRING_BYTES * proto.ByteSize())


def to_proto(
    value: np.ndarray | np.generic | bytes, proto: tensor_pb2.TensorProto, *, as_content: bool = False
) -> None:
    """Writes an array into an empty TensorProto.

    Args:
        value: what a run answers; a scalar string comes as bytes.
        proto: written to in place, so that a response's map entry needs no copy.
        as_content: write tensor_content, for strings too. Otherwise the field of the dtype: float_val and so on.
    """
    array = as_array(value)
    dtype = tf.as_dtype(array.dtype)
    proto.dtype = dtype.as_datatype_enum
    set_shape(proto, array)
    if as_content:
        proto.tensor_content = _string_content(array.ravel()) if dtype == tf.string else array.tobytes()
    elif dtype in _PACKED:
        proto.MergeFromString(_packed(_FIELDS[dtype], array))
    else:
        _extend(proto, dtype, array)


def _packed(field: str, array: np.ndarray) -> bytes:
    """A TensorProto with one packed field, serialised: tensor_content's bytes, under the tag of another field.

    Extending the list instead would make a Python float of each element, some 150 times slower.
    """
    wire = bytearray(tensor_pb2.TensorProto(tensor_content=array.tobytes()).SerializeToString())
    if wire:
        wire[0] = tensor_pb2.TensorProto.DESCRIPTOR.fields_by_name[field].number << 3 | LENGTH_DELIMITED
    return bytes(wire)


def _string_content(strings: Iterable[bytes]) -> bytes:
    """tensor_content of strings: all their lengths as varints, then all their bytes."""
    strings = list(strings)
    return b"".join([*(varint(len(one)) for one in strings), *strings])


def _extend(proto: tensor_pb2.TensorProto, dtype: tf.DType, array: np.ndarray) -> None:
    if dtype in (tf.float16, tf.bfloat16):
        proto.half_val.extend(array.view(np.uint16).ravel().tolist())
    elif dtype in (tf.complex64, tf.complex128):
        field = proto.scomplex_val if dtype == tf.complex64 else proto.dcomplex_val
        field.extend(array.ravel().view(array.real.dtype).tolist())
    elif dtype in _FIELDS:
        getattr(proto, _FIELDS[dtype]).extend(array.ravel().tolist())
    else:
        proto.tensor_content = array.tobytes()


def as_array(value: np.ndarray | np.generic | bytes) -> np.ndarray:
    """An array of what TensorFlow answers; the scalar string, which comes as bytes, keeps its trailing zeros."""
    return np.asarray(value, dtype=object) if isinstance(value, bytes) else np.asarray(value)


def set_shape(proto: tensor_pb2.TensorProto, array: np.ndarray) -> None:
    """Writes the shape of an array; that of a scalar is there and empty, as TensorFlow has it."""
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)


def dtype_of(array: np.ndarray) -> tf.DType:
    """The dtype as TensorFlow has it; an array of objects is one of strings."""
    return tf.as_dtype(array.dtype)


def dtype_name(dtype: tf.DType) -> str:
    """The name of a dtype in the protocol: DT_FLOAT."""
    return types_pb2.DataType.Name(dtype.as_datatype_enum)


def dtype_word(dtype: tf.DType) -> str:
    """The name of a dtype in TensorFlow's messages: float."""
    return dtype_name(dtype).removeprefix("DT_").lower()


def shape_text(shape: Sequence[int]) -> str:
    """A shape as TensorFlow prints it: [2,3]."""
    return f"[{','.join(map(str, shape))}]"
