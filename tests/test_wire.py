import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import get_model_status_pb2, model_pb2, predict_pb2

from vit22b import signature, wire_pb2
from vit22b.tensors import from_wire, model_spec, predict_request, to_wire

ARRAYS = [
    np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4),
    np.array(3.5, np.float32),
    np.zeros((0, 5), np.float32),
    np.arange(-3, 3, dtype=np.int32).reshape(3, 2),
    np.arange(256, dtype=np.uint8).reshape(4, 64),
    np.array([True, False, True]),
    np.array([b"", b"\x00\xff", b"text" * 1000], object),
]
OFFICIAL = {
    "TensorProto": tensor_pb2.TensorProto,
    "PredictRequest": predict_pb2.PredictRequest,
    "PredictResponse": predict_pb2.PredictResponse,
    "ModelSpec": model_pb2.ModelSpec,
    "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
    "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
    "ModelVersionStatus": get_model_status_pb2.ModelVersionStatus,
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_field_has_the_official_number_name_and_type(name: str):
    packed = {("TensorProto", "float_val"), ("TensorProto", "bool_val")}
    theirs = {field.name: field for field in OFFICIAL[name].DESCRIPTOR.fields}
    for field in getattr(wire_pb2, name).DESCRIPTOR.fields:
        official = theirs[field.name]
        assert field.number == official.number
        if (name, field.name) in packed:
            assert official.is_packed
            assert field.type == descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
        else:
            assert (field.type, field.is_repeated) == (official.type, official.is_repeated)


def test_every_dtype_and_state_has_the_official_number():
    assert dict(wire_pb2.DataType.items()).items() <= dict(types_pb2.DataType.items()).items()
    assert wire_pb2.ModelVersionStatus.State.items() == get_model_status_pb2.ModelVersionStatus.State.items()


@pytest.mark.parametrize("values", ARRAYS, ids=lambda values: f"{values.dtype}{list(values.shape)}")
def test_a_tensor_is_read_by_tensorflow(values: np.ndarray):
    official = tensor_pb2.TensorProto.FromString(to_wire(values).SerializeToString())
    read = tf.make_ndarray(official)
    assert read.shape == values.shape
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("values", ARRAYS, ids=lambda values: f"{values.dtype}{list(values.shape)}")
def test_a_tensor_of_tensorflow_is_read(values: np.ndarray):
    written = tf.make_tensor_proto(values).SerializeToString()
    ours = wire_pb2.TensorProto.FromString(written)
    np.testing.assert_array_equal(from_wire(ours), values)
    assert from_wire(ours).shape == values.shape
    assert ours.SerializeToString() == written


FIELDS = [("float_val", np.float32), ("int_val", np.int32), ("int_val", np.uint8), ("bool_val", np.bool_)]


def test_the_fields_are_those_of_every_dtype_of_the_contract():
    assert {np.dtype(dtype).name for _, dtype in FIELDS} | {"string"} == set(get_args(signature.DType))


@pytest.mark.parametrize(("field", "dtype"), FIELDS)
@pytest.mark.parametrize("given", [0, 1, 2, 6])
def test_the_field_of_the_type_is_read_whole_or_shortened(field, dtype, given):
    official = tensor_pb2.TensorProto(dtype=tf.as_dtype(dtype).as_datatype_enum)
    official.tensor_shape.dim.add(size=2)
    official.tensor_shape.dim.add(size=3)
    getattr(official, field).extend([1, 0, 1, 1, 0, 1][:given])
    ours = from_wire(wire_pb2.TensorProto.FromString(official.SerializeToString()))
    expected = tf.make_ndarray(official) if given else np.zeros((2, 3), dtype)
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_integers_of_a_server_without_tensor_content_are_read(dtype):
    official = tensor_pb2.TensorProto(dtype=tf.as_dtype(dtype).as_datatype_enum)
    official.tensor_shape.dim.add(size=4)
    limits = np.iinfo(dtype)
    official.int_val.extend([limits.min, 0, 1, limits.max])
    ours = wire_pb2.TensorProto.FromString(official.SerializeToString())
    np.testing.assert_array_equal(from_wire(ours), np.array([limits.min, 0, 1, limits.max], dtype))
    assert ours.SerializeToString() == official.SerializeToString()


def test_messages_make_the_round_trip_byte_by_byte():
    request = predict_request("m", "s", {"x": ARRAYS[0]}, version=7, outputs=["y", "z"])
    official = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    assert (official.model_spec.name, official.model_spec.version.value) == ("m", 7)
    assert (official.model_spec.signature_name, list(official.output_filter)) == ("s", ["y", "z"])
    assert official.SerializeToString() == request.SerializeToString()

    answer = predict_pb2.PredictResponse(model_spec=model_pb2.ModelSpec(name="m", version_label="stable"))
    answer.outputs["y"].CopyFrom(tf.make_tensor_proto(ARRAYS[0]))
    # version_label is not among our fields and must come through all the same.
    written = answer.SerializeToString()
    assert wire_pb2.PredictResponse.FromString(written).SerializeToString() == written

    status = get_model_status_pb2.GetModelStatusResponse()
    status.model_version_status.add(version=3, state=30).status.error_message = "why"
    ours = wire_pb2.GetModelStatusResponse.FromString(status.SerializeToString())
    assert ours.model_version_status[0].status.error_message == "why"
    assert ours.SerializeToString() == status.SerializeToString()


def test_no_version_is_the_latest_and_not_version_zero():
    assert not model_spec("m", None).HasField("version")
    assert model_spec("m", 0).HasField("version")


def test_what_no_signature_of_ours_holds_is_refused():
    with pytest.raises(ValueError, match="float64"):
        to_wire(np.zeros(3))
    double = wire_pb2.TensorProto.FromString(tf.make_tensor_proto(np.zeros(3)).SerializeToString())
    with pytest.raises(ValueError, match="dtype number 2"):
        from_wire(double)


@pytest.mark.parametrize("field", ["tensor_content", "float_val"])
def test_a_tensor_with_too_many_values_is_refused(field):
    tensor = wire_pb2.TensorProto(dtype=wire_pb2.DT_FLOAT, **{field: np.zeros(3, np.float32).tobytes()})
    tensor.tensor_shape.dim.add(size=2)
    with pytest.raises(ValueError, match="3 values, its shape holds 2"):
        from_wire(tensor)


def test_both_descriptors_live_in_one_process_in_either_order():
    # This process has loaded TensorFlow's first; the other loads ours first.
    code = (
        "from vit22b.wire_pb2 import PredictRequest as ours;"
        "from tensorflow_serving.apis.predict_pb2 import PredictRequest as theirs;"
        "print(ours.DESCRIPTOR.full_name, theirs.DESCRIPTOR.full_name)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["vit22b.wire.PredictRequest", "tensorflow.serving.PredictRequest"]
