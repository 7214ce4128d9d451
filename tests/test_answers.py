"""What is asked and answered without a transport; tests/test_conformance.py has the recorded answers, over both."""

import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.answers import Answers
from serving.call import Call
from serving.lifecycle import Lifecycle
from serving.loading import Retries
from serving.prediction import Asked
from serving.servable import Servable, ServableOptions
from tests.lifecycles import aspire
from tests.small_models import half_plus


@pytest.fixture(scope="module")
def answers():
    lifecycle = Lifecycle(lambda *what: Servable.load(*what, ServableOptions()), Retries(count=0), threading.Event())
    aspire(lifecycle, "p", {1: half_plus(1)})
    lifecycle.labels.set({"p": {"stable": 1}})
    yield Answers(lifecycle)
    aspire(lifecycle, "p", {})


@pytest.fixture
def call():
    return Call("", "GRPC")


def asking(kind, **spec):
    message = kind()
    message.model_spec.name = "p"
    for field, value in spec.items():
        setattr(message.model_spec, field, value)
    return message


def of_examples(kind, signature, **spec):
    message = asking(kind, signature_name=signature, **spec)
    example = message.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(2)
    return message


def both_methods(name="p"):
    request = inference_pb2.MultiInferenceRequest()
    for method in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = name, method
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(2)
    return request


def noted(call):
    return call.model, call.version, call.signature


@pytest.mark.parametrize("spec", [{}, {"version_label": "stable"}])
def test_predict(answers, call, spec):
    asked = Asked(asking(predict_pb2.PredictRequest, **spec).model_spec, {"x": np.float32([2])})
    response = predict_pb2.PredictResponse.FromString(answers.predict(asked, call))
    assert (response.model_spec.version.value, list(response.outputs["y"].float_val)) == (1, [3])
    assert noted(call) == ("p", 1, "serving_default")
    assert call.rows == 1


def test_classify_and_regress(answers, call):
    classified = answers.classify(of_examples(classification_pb2.ClassificationRequest, "classify"), call)
    assert [entry.score for entry in classified.result.classifications[0].classes] == [3, 2]
    assert noted(call) == ("p", 1, "classify")
    regressed = answers.regress(of_examples(regression_pb2.RegressionRequest, "regress"), call)
    assert [row.value for row in regressed.result.regressions] == [3]
    assert noted(call) == ("p", 1, "regress")
    spec = regressed.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("p", 1, "regress")


def test_multi_inference(answers, call):
    first, second = answers.multi_inference(both_methods(), call).results
    assert [entry.label for entry in first.classification_result.classifications[0].classes] == ["low", "high"]
    assert [row.value for row in second.regression_result.regressions] == [3]
    assert (call.model, call.version, call.examples) == ("p", 1, 1)


def test_metadata_and_status(answers, call):
    request = asking(get_model_metadata_pb2.GetModelMetadataRequest)
    request.metadata_field.append("signature_def")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    answers.get_model_metadata(request, call).metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "classify", "regress"} <= signatures.signature_def.keys()
    assert noted(call) == ("p", 1, "")
    asked = asking(get_model_status_pb2.GetModelStatusRequest, version_label="nope")
    (status,) = answers.get_model_status(asked, call).model_version_status
    assert (status.version, status.state) == (1, 30)


def test_a_version_to_run_a_signature_of(answers, call):
    spec = asking(predict_pb2.PredictRequest).model_spec
    with answers.servable(spec, call) as servable:
        assert set(servable.inputs(spec.signature_name)) == {"x"}
        assert servable.answer(Asked(spec, {"x": np.float32([2])}), call).outputs["y"].tolist() == [3]
        with pytest.raises(tf.errors.InvalidArgumentError) as refused:
            servable.inputs("nope")
    assert refused.value.message == 'Serving signature name: "nope" not found in signature def'
    assert noted(call) == ("p", 1, "serving_default")


def ask(answers, call, method, spec):
    if method == "predict":
        return answers.predict(Asked.of(asking(predict_pb2.PredictRequest, **spec)), call)
    if method == "classify":
        return answers.classify(of_examples(classification_pb2.ClassificationRequest, "", **spec), call)
    if method == "regress":
        return answers.regress(of_examples(regression_pb2.RegressionRequest, "", **spec), call)
    request = asking(get_model_metadata_pb2.GetModelMetadataRequest, **spec)
    request.metadata_field.append("signature_def")
    return answers.get_model_metadata(request, call)


@pytest.mark.parametrize("method", ["predict", "classify", "regress", "get_model_metadata"])
@pytest.mark.parametrize(
    ("spec", "kind", "text"),
    [
        ({"name": ""}, tf.errors.InvalidArgumentError, "ModelSpec has no name specified."),
        ({"name": "q"}, tf.errors.NotFoundError, "Servable not found for request: Latest(q)"),
        ({"version_label": "old"}, tf.errors.InvalidArgumentError, "Unrecognized servable version label: old"),
    ],
)
def test_a_model_that_does_not_answer_is_named(answers, call, method, spec, kind, text):
    with pytest.raises(kind) as refused:
        ask(answers, call, method, spec)
    assert refused.value.message == text
    assert call.model == spec.get("name", "p")


@pytest.mark.parametrize(
    "refused",
    [
        lambda answers, call: answers.predict(Asked.of(predict_pb2.PredictRequest()), call),
        lambda answers, call: answers.classify(classification_pb2.ClassificationRequest(), call),
        lambda answers, call: answers.regress(regression_pb2.RegressionRequest(), call),
        lambda answers, call: answers.get_model_metadata(get_model_metadata_pb2.GetModelMetadataRequest(), call),
        lambda answers, call: answers.get_model_status(get_model_status_pb2.GetModelStatusRequest(), call),
    ],
)
def test_a_request_needs_a_spec(answers, call, refused):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        refused(answers, call)
    assert error.value.message == "Missing ModelSpec"
