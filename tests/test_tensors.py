import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving import tensors

DTYPES = [
    *(tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128, tf.bool),
    *(tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64),
]


def proto(dtype, shape, **fields):
    message = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, **fields)
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    return message


def written(array, *, as_content=False):
    message = tensor_pb2.TensorProto()
    tensors.to_proto(array, message, as_content=as_content)
    return message


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_reads_back(dtype, shape, as_content):
    array = np.random.default_rng(0).integers(-3, 4, shape).astype(dtype.as_numpy_dtype)
    message = written(array, as_content=as_content)
    again = tensors.from_proto(tensor_pb2.TensorProto.FromString(message.SerializeToString()))
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)
    np.testing.assert_array_equal(tf.make_ndarray(message), array)
    assert bool(message.tensor_content) == (as_content and array.size > 0)


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("array", [b"scalar\0", np.array([[b"a", b""], [b"\xff\0", b"d" * 300]], object)])
def test_strings_read_back_with_every_byte(array, as_content):
    message = written(array, as_content=as_content)
    again = tensors.from_proto(message)
    assert again.dtype == object
    np.testing.assert_array_equal(again, np.asarray(array, dtype=object))
    assert bool(message.string_val) != as_content


def test_packed_floats_are_the_same_message_as_a_list():
    array = np.array([0.0, -1.5, np.inf, 3e38], np.float32)
    assert written(array) == proto(tf.float32, [4], float_val=array.tolist())


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (proto(tf.float32, [3], float_val=[7]), [7, 7, 7]),
        (proto(tf.float32, [1], float_val=[1, 2, 3]), [1]),
        (proto(tf.float32, [2]), [0, 0]),
        (proto(tf.string, [2], string_val=[b"a"]), [b"a", b"a"]),
        (proto(tf.string, [1], tensor_content=b"\x01x"), [b"x"]),
    ],
)
def test_a_list_of_another_length_is_filled_up_or_cut(message, expected):
    assert tensors.from_proto(message).tolist() == expected


@pytest.mark.parametrize(
    "message",
    [
        proto(tf.float32, [4], tensor_content=b"seven b"),
        proto(tf.float32, [-1], float_val=[1]),
        proto(tf.float32, [-1, -2], tensor_content=b"\0" * 8),
        proto(tf.float32, [2**62, 4], float_val=[1]),
        proto(tf.resource, [1]),
        proto(tf.variant, [2], variant_val=[{}]),
        proto(tf.float32, [2**26 + 1], float_val=[1]),
        proto(tf.string, [2**22 + 1], string_val=[b"a"]),
        tensor_pb2.TensorProto(),
        tensor_pb2.TensorProto(dtype=77),
    ],
)
def test_what_is_no_tensor_is_refused(message):
    with pytest.raises(ValueError, match="no tensor"):
        tensors.from_proto(message)


def test_a_list_may_be_larger_than_what_a_few_values_may_stand_for(monkeypatch):
    monkeypatch.setattr(tensors, "_MAX_FILLED_BYTES", 8)
    assert tensors.from_proto(proto(tf.int32, [4], int_val=[1, 2, 3, 4])).tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="too large"):
        tensors.from_proto(proto(tf.int32, [1000], int_val=[1]))
