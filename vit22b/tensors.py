"""numpy arrays <-> the wire's tensors and messages.

Between server and client on the walk. It knows the bytes and no network: whatever sends them, in whatever style,
encodes and decodes here. Numbers are copied as a whole and not element by element, but for an int_val, which the wire
has as numbers of varying length.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vit22b import wire_pb2

# Which dtype is known when the tensor is: numbers, or bytes objects.
Array = npt.NDArray[Any]

_NUMBERS: dict[int, np.dtype[Any]] = {
    wire_pb2.DT_FLOAT: np.dtype("<f4"),
    wire_pb2.DT_INT32: np.dtype("<i4"),
    wire_pb2.DT_UINT8: np.dtype("u1"),
    wire_pb2.DT_BOOL: np.dtype("?"),
}
# Where a server that writes no tensor_content puts the values.
_FIELDS = {
    wire_pb2.DT_FLOAT: "float_val",
    wire_pb2.DT_INT32: "int_val",
    wire_pb2.DT_UINT8: "int_val",
    wire_pb2.DT_BOOL: "bool_val",
}
_TYPES = {dtype: number for number, dtype in _NUMBERS.items()}


def to_wire(values: Array | Sequence[bytes]) -> wire_pb2.TensorProto:
    """A tensor of float32, int32, uint8 or bool values, or of bytes (a list of them, or an array of objects).

    Raises:
        ValueError: another dtype.
    """
    if not isinstance(values, np.ndarray):
        return wire_pb2.TensorProto(dtype=wire_pb2.DT_STRING, tensor_shape=_shape((len(values),)), string_val=values)
    if values.dtype == object:
        strings = values.ravel().tolist()
        return wire_pb2.TensorProto(dtype=wire_pb2.DT_STRING, tensor_shape=_shape(values.shape), string_val=strings)
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    if little.dtype not in _TYPES:
        raise ValueError(f"the dtype is {values.dtype}; expected float32, int32, uint8, bool or bytes")
    return wire_pb2.TensorProto(
        dtype=_TYPES[little.dtype], tensor_shape=_shape(little.shape), tensor_content=little.tobytes()
    )


def from_wire(tensor: wire_pb2.TensorProto) -> Array:
    """The values of a tensor, read-only where they are numbers; strings come as an array of bytes objects.

    A server writes either the whole content or the field of the values' type. There may be fewer of those than the
    shape holds: the last one stands for the rest, and none at all for zeros.

    Raises:
        ValueError: a dtype that no signature of ours answers, or more or fewer values than the shape holds.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.dtype == wire_pb2.DT_STRING:
        values: Array = np.empty(len(tensor.string_val), object)
        values[:] = list(tensor.string_val)
    elif tensor.dtype in _NUMBERS:
        values = _numbers(tensor)
    else:
        raise ValueError(f"a tensor has the dtype number {tensor.dtype}; expected {sorted(_NUMBERS)} or 7")
    size = math.prod(shape)
    if len(values) != size:
        values = _filled(values, size, whole=bool(tensor.tensor_content))
    return values.reshape(shape)


def predict_request(
    model: str,
    signature: str,
    inputs: Mapping[str, Array | Sequence[bytes]],
    *,
    version: int | None = None,
    outputs: Sequence[str] = (),
) -> wire_pb2.PredictRequest:
    """A PredictRequest.

    Args:
        model: name of the model.
        signature: name of the signature.
        inputs: the tensors by input name, as to_wire takes them.
        version: a version, or None for the server's latest.
        outputs: the outputs wanted; none named means all.
    """
    spec = model_spec(model, version, signature)
    tensors = {name: to_wire(values) for name, values in inputs.items()}
    return wire_pb2.PredictRequest(model_spec=spec, inputs=tensors, output_filter=outputs)


def model_spec(model: str, version: int | None, signature: str = "") -> wire_pb2.ModelSpec:
    """A ModelSpec; version None asks for the latest."""
    spec = wire_pb2.ModelSpec(name=model, signature_name=signature)
    if version is not None:
        spec.version.value = version
    return spec


def _shape(sizes: Sequence[int]) -> wire_pb2.TensorShapeProto:
    return wire_pb2.TensorShapeProto(dim=[wire_pb2.TensorShapeProto.Dim(size=size) for size in sizes])


def _numbers(tensor: wire_pb2.TensorProto) -> Array:
    """The numbers that a tensor of one of _NUMBERS holds, in a row."""
    dtype = _NUMBERS[tensor.dtype]
    values = tensor.tensor_content or getattr(tensor, _FIELDS[tensor.dtype])
    return np.frombuffer(values, dtype) if isinstance(values, bytes) else np.array(values, np.int32).astype(dtype)


def _filled(values: Array, size: int, *, whole: bool) -> Array:
    if whole or len(values) > size:
        raise ValueError(f"a tensor has {len(values)} values, its shape holds {size}")
    if not len(values):
        return np.full(size, b"", object) if values.dtype == object else np.zeros(size, values.dtype)
    return np.concatenate([values, np.repeat(values[-1:], size - len(values))])
