"""What is asked and answered without a transport; tests/test_services.py has the recorded answers, over gRPC."""

import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from serving.answers import Answers
from serving.lifecycle import Lifecycle, Retries
from serving.servable import Options, Servable
from tests.small_models import plus


@pytest.fixture(scope="module")
def answers():
    lifecycle = Lifecycle(lambda *what: Servable.load(*what, Options()), Retries(count=0), threading.Event())
    lifecycle.aspire("p", {1: plus(1)})
    yield Answers(lifecycle)
    lifecycle.aspire("p", {})


def asking(kind, **spec):
    message = kind()
    message.model_spec.name = "p"
    for field, value in spec.items():
        setattr(message.model_spec, field, value)
    return message


def test_the_latest_version_answers(answers):
    request = asking(predict_pb2.PredictRequest)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([2])))
    response = answers.predict(request)
    assert (response.model_spec.version.value, list(response.outputs["y"].float_val)) == (1, [2])


def test_metadata_and_status(answers):
    request = asking(get_model_metadata_pb2.GetModelMetadataRequest)
    request.metadata_field.append("signature_def")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    answers.get_model_metadata(request).metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "wait", "describe"} <= signatures.signature_def.keys()
    (status,) = answers.get_model_status(asking(get_model_status_pb2.GetModelStatusRequest)).model_version_status
    assert (status.version, status.state) == (1, 30)


@pytest.mark.parametrize("method", ["predict", "get_model_metadata"])
@pytest.mark.parametrize(
    ("spec", "kind", "text"),
    [
        ({"name": ""}, tf.errors.InvalidArgumentError, "ModelSpec has no name specified."),
        ({"name": "q"}, tf.errors.NotFoundError, "Servable not found for request: Latest(q)"),
        ({"version_label": "old"}, tf.errors.InvalidArgumentError, "Unrecognized servable version label: old"),
    ],
)
def test_a_model_that_does_not_answer_is_named(answers, method, spec, kind, text):
    request = asking(get_model_metadata_pb2.GetModelMetadataRequest, **spec)
    request.metadata_field.append("signature_def")
    if method == "predict":
        request = asking(predict_pb2.PredictRequest, **spec)
    with pytest.raises(kind) as refused:
        getattr(answers, method)(request)
    assert refused.value.message == text
