import time
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, regression_pb2

from serving.batch_queue import Threads
from serving.call import Call
from serving.servable import Servable, ServableOptions
from serving.server_config_pb2 import BatchingParameters
from serving.session_batching import Batching
from tests.small_models import half_plus, plus, put


def request(signature="", **inputs):
    message = predict_pb2.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = "m", signature
    for alias, value in inputs.items():
        message.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return message


@pytest.fixture(scope="module")
def servable():
    loaded = Servable.load("m", 3, plus(3), ServableOptions())
    yield loaded
    loaded.close()


def test_the_answer_names_what_answered(servable):
    response = servable.predict(request(x=np.array([2, 4], np.float32)))
    assert list(response.outputs["y"].float_val) == [4, 5]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 3, "serving_default")


def test_a_signature_without_inputs_answers(servable):
    response = servable.predict(request("describe"))
    assert list(response.outputs["text"].string_val) == [b"no input, and a zero at the end\0"]
    assert not response.outputs["text"].tensor_shape.dim


def test_a_signatures_method_is_checked_on_request():
    loaded = Servable.load("m", 3, plus(3), ServableOptions(check_method=True))
    with pytest.raises(tf.errors.InternalError, match="Expected prediction signature method_name to be one of"):
        loaded.predict(request("__saved_model_init_op"))
    loaded.close()


def test_a_signature_that_answers_nothing_cannot_be_fetched(servable):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Tried to fetch data for 'NoOp', which"):
        servable.predict(request("__saved_model_init_op"))


def test_tensor_content_on_request():
    loaded = Servable.load("m", 3, plus(3), ServableOptions(as_tensor_content=True))
    assert loaded.predict(request(x=np.ones(1, np.float32))).outputs["y"].tensor_content == np.float32(3.5).tobytes()
    text = loaded.predict(request("describe")).outputs["text"].tensor_content
    assert text == b"\x20no input, and a zero at the end\0"
    loaded.close()


def test_an_input_with_a_default_may_be_left_out(tmp_path):
    path = put(plus(1), tmp_path, 1)
    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    signature = model.meta_graphs[0].signature_def["serving_default"]
    signature.defaults["x"].CopyFrom(tf.make_tensor_proto([10.0]))
    (path / "saved_model.pb").write_bytes(model.SerializeToString())
    loaded = Servable.load("m", 1, path, ServableOptions())
    assert list(loaded.predict(request()).outputs["y"].float_val) == [6]
    assert not loaded.metadata().signature_def["serving_default"].defaults
    with pytest.raises(tf.errors.InvalidArgumentError, match="input size does not match signature: 0!=1"):
        loaded.predict(request("wait"))
    loaded.close()


def test_a_file_is_no_version(tmp_path):
    (tmp_path / "2").write_text("")
    with pytest.raises(tf.errors.FailedPreconditionError) as refused:
        Servable.load("p", 2, tmp_path / "2", ServableOptions())
    assert refused.value.message == (
        "Error while attempting to reserve resources to load servable {name: p version: 2}: "
        f"{tmp_path}/2; Not a directory"
    )


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (Call("Predict", "GRPC", gone=lambda: True), tf.errors.CancelledError),
        (Call("Predict", "GRPC", deadline=time.monotonic() - 1), tf.errors.DeadlineExceededError),
    ],
)
def test_what_nobody_waits_for_is_not_computed(servable, call, kind):
    with pytest.raises(kind):
        servable.predict(request(x=np.ones(1, np.float32)), call)
    assert "run" not in call.seconds


def test_the_deadline_ends_the_run(servable, tmp_path):
    call = Call("Predict", "GRPC", deadline=time.monotonic() + 0.2)
    with pytest.raises(tf.errors.DeadlineExceededError):
        servable.predict(request("wait", gate=str(tmp_path / "never")), call)
    assert call.seconds["run"] > 0


def test_batching_is_of_all_methods():
    threads = Threads(1)
    seen = []
    parameters = BatchingParameters(max_batch_size={"value": 2}, batch_timeout_micros={"value": 60_000_000})
    batching = Batching(threads, parameters, observe=lambda *what: seen.append(what))
    loaded = Servable.load("m", 1, half_plus(1), ServableOptions(batching=batching))
    asked = regression_pb2.RegressionRequest(model_spec={"signature_name": "regress"})
    asked.input.example_list.examples.add().features.feature["x"].float_list.value.append(2)
    with futures.ThreadPoolExecutor(2) as pool:
        predicted = list(pool.map(loaded.predict, 2 * [request(x=np.ones(1, np.float32))]))
        regressed = list(pool.map(loaded.regress, 2 * [asked]))
    assert [response.outputs["y"].float_val[:] for response in predicted] == [[2.5], [2.5]]
    assert [response.result.regressions[0].value for response in regressed] == [3, 3]
    assert [value for name, value, _labels in seen if name == "processed_batch_size"] == [2, 2]
    loaded.close()
    threads.close()


def test_a_version_whose_batching_makes_no_sense_is_not_loaded():
    threads = Threads(1)
    batching = Batching(threads, BatchingParameters(max_batch_size={"value": 0}))
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_batch_size must be positive; was 0"):
        Servable.load("m", 1, plus(1), ServableOptions(batching=batching))
    threads.close()
