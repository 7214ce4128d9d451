"""Predict's bytes without its messages: whatever they are, protobuf reads the same in them."""

import random

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import model_pb2, predict_pb2

from serving import predict_wire, tensors
from serving.prediction import Answered, Asked

KINDS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.bool_, np.complex64, np.complex128]
KINDS += [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
SHAPES = [(), (1,), (3,), (0,), (2, 0), (2, 3), (1, 4, 2)]


def request(**inputs):
    message = predict_pb2.PredictRequest(output_filter=["y", "é"])
    message.model_spec.name, message.model_spec.version.value = "m", 7
    for alias, proto in inputs.items():
        message.inputs[alias].CopyFrom(proto)
    return message


def tensor(kind, shape, *, as_content, seed=0):
    proto = tensor_pb2.TensorProto()
    values = np.random.default_rng(seed).integers(0, 2 if kind is np.bool_ else 100, shape)
    tensors.to_proto(np.asarray(values).astype(kind), proto, as_content=as_content)
    return proto


def text(*rows, shape=None):
    proto = tensor_pb2.TensorProto(dtype=tf.string.as_datatype_enum, string_val=rows)
    for size in (len(rows),) if shape is None else shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def as_read(asked):
    """What a run would be fed: arrays, or that there is no tensor."""

    def read(value):
        try:
            array = value if isinstance(value, np.ndarray) else tensors.from_proto(value)
        except ValueError:
            return "no tensor"
        return array.dtype, array.shape, array.tolist() if array.dtype == object else array.tobytes()

    inputs = {alias: read(value) for alias, value in asked.inputs.items()}
    return asked.spec, asked.has_spec, list(asked.outputs), inputs


def both(content):
    """What this server reads in some bytes, and what protobuf reads in them."""
    answers = []
    for parse in (predict_wire.parse, lambda content: Asked.of(predict_pb2.PredictRequest.FromString(content))):
        try:
            answers.append(as_read(parse(content)))
        except DecodeError:
            answers.append("no message")
    return answers


@pytest.mark.parametrize("as_content", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_dtype_is_read_as_protobuf_reads_it(shape, as_content):
    for kind in KINDS:
        ours, theirs = both(request(x=tensor(kind, shape, as_content=as_content)).SerializeToString())
        assert ours == theirs
        assert theirs[3]["x"] != "no tensor"


def test_bulk_data_is_not_copied():
    for as_content, kinds in ((True, KINDS), (False, [np.float32, np.float64, np.bool_])):
        for kind in kinds:
            content = request(x=tensor(kind, (50, 2), as_content=as_content)).SerializeToString()
            array = predict_wire.parse(content).inputs["x"]
            assert np.shares_memory(array.view(np.uint8), np.frombuffer(content, np.uint8))


def odd_tensors():
    cut = tensor(np.float32, (3,), as_content=True)
    cut.tensor_content = cut.tensor_content[:-1]
    both_fields = tensor(np.float32, (3,), as_content=True)
    both_fields.float_val.extend([1, 2, 3])
    filled = tensor_pb2.TensorProto(dtype=1, float_val=[1, 2])
    filled.tensor_shape.dim.add(size=5)
    unknown = tensor(np.float32, (3,), as_content=True)
    unknown.tensor_shape.unknown_rank = True
    negative = tensor(np.float32, (3,), as_content=True)
    negative.tensor_shape.dim[0].size = -1
    yield from (cut, both_fields, filled, unknown, negative, tensor_pb2.TensorProto(), tensor_pb2.TensorProto(dtype=1))
    yield from (text(b"a", b"", b"\0"), text(b"a", shape=(2,)), text(b"ab", shape=()), text())
    yield text(b"a", b"b", b"c", b"d", shape=(2, 2))
    yield tensor_pb2.TensorProto(dtype=99, float_val=[1])
    yield tensor_pb2.TensorProto(dtype=1, version_number=2, float_val=[1])
    yield tensor_pb2.TensorProto(dtype=10, bool_val=[True])
    yield from (tensor(np.float32, (1,) * 64, as_content=True), text(b"a", shape=(1,) * 64))
    yield from (_deeper(np.float32), text(b"a", shape=(1,) * 65))


def _deeper(kind):
    proto = tensor(kind, (1,) * 64, as_content=True)
    proto.tensor_shape.dim.add(size=1)
    return proto


def test_more_dimensions_than_an_array_has_are_no_tensor():
    for proto in (_deeper(np.float32), _deeper(np.bool_), text(b"a", shape=(1,) * 65)):
        assert as_read(predict_wire.parse(request(x=proto).SerializeToString()))[3]["x"] == "no tensor"


@pytest.mark.parametrize("proto", list(odd_tensors()))
def test_odd_tensors_are_read_as_protobuf_reads_them(proto):
    ours, theirs = both(request(x=proto, y=tensor(np.float32, (2,), as_content=False)).SerializeToString())
    assert ours == theirs


def odd_messages():
    x = tensor(np.float32, (2,), as_content=False)
    one = request(x=x).SerializeToString()
    yield from (b"", one + one, one + request(x=text(b"a")).SerializeToString(), one[:-1], one + b"\x08\x01")
    yield predict_pb2.PredictRequest().SerializeToString()
    yield one + b"\x12\x00"  # an entry without alias and tensor
    yield one + b"\x12\x03\x0a\x01\xff"  # an alias that is no UTF-8
    yield one + b"\x1a\x01\xff"
    yield one + b"\x12\x02\x12\x00"  # no alias
    yield one + b"\x12\x03\x0a\x01a"  # no tensor
    yield b"\x0a\x80\x80\x80\x80\x00" + one  # a length of five bytes
    yield b"\x8a\x00\x00" + one  # a tag of two
    yield one + bytes([10 << 3 | 3, 10 << 3 | 4])  # a group
    yield one + b"\x2a\x00"  # a field of a later version
    yield b"\x02\x00"  # field number 0


@pytest.mark.parametrize("content", list(odd_messages()))
def test_odd_messages_are_read_as_protobuf_reads_them(content):
    ours, theirs = both(content)
    assert ours == theirs


def test_mutated_messages_are_read_as_protobuf_reads_them():
    dice = random.Random(22)
    good = [
        request(x=tensor(kind, (2, 3), as_content=as_content, seed=1), y=text(b"a", b"bc")).SerializeToString()
        for kind in (np.float32, np.bool_, np.int64)
        for as_content in (True, False)
    ]
    outcomes = set()
    for _ in range(4000):
        content = bytearray(dice.choice(good))
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(len(content))
            change = dice.randrange(4)
            if change == 0:
                content[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
            elif change == 1:
                del content[at : at + dice.randint(1, 4)]
            elif change == 2:
                content[at:at] = dice.randbytes(dice.randint(1, 3))
            else:
                content[at:at] = content[at : at + dice.randint(1, 20)]
            content = content or bytearray(b"\0")
        ours, theirs = both(bytes(content))
        assert ours == theirs, bytes(content)
        outcomes.add(theirs == "no message")
    assert outcomes == {True, False}


@pytest.mark.parametrize("as_content", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_response_has_protobufs_bytes(shape, as_content):
    spec = model_pb2.ModelSpec(name="m", signature_name="s")
    spec.version.value = 3
    values = [np.ones(shape, kind) for kind in KINDS] + [np.full(shape, b"bytes", object)]
    for value in values:
        answered = Answered(spec, {"y": value})
        ours = predict_wire.serialize(answered, as_content=as_content)
        assert ours == answered.message(as_content=as_content).SerializeToString()


def test_a_response_with_several_outputs_says_what_the_message_says():
    outputs = {
        "": np.float32(1),
        "a" * 200: b"text\0",
        "tokens": np.ones((300, 7), np.float32)[::2],
        "e": np.zeros((0, 3)),
    }
    answered = Answered(model_pb2.ModelSpec(name="m"), outputs)
    read = predict_pb2.PredictResponse.FromString(predict_wire.serialize(answered, as_content=False))
    assert read == answered.message(as_content=False)
