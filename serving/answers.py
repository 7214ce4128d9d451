"""The answers to the API's methods, whatever carries them: which version a request means, and what it gets.

On the way SavedModel -> server -> client between the loaded versions and what brings requests in, services.py over
gRPC and the REST handlers. Messages, codes and texts are TensorFlow Serving's; an error's code is that of its class in
tf.errors.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_pb2,
    regression_pb2,
)

from serving import multi_inference, predict_wire
from serving.call import Call
from serving.lifecycle import Lifecycle
from serving.prediction import DEFAULT_SIGNATURE, Asked
from serving.servable import Servable
from serving.status import invalid, not_found


class Answers:
    """PredictionService and ModelService, over one set of models.

    Every method raises tf.errors.OpError with the code and the text that the caller gets, and notes in its Call which
    model, version and signature it is about.
    """

    def __init__(self, lifecycle: Lifecycle):
        """Answers from what the lifecycle has loaded."""
        self._lifecycle = lifecycle

    def predict(self, asked: Asked, call: Call) -> bytes:
        """Predict: runs a signature. The response is serialised; predict_wire.py parses requests for it."""
        with self.servable(_spec_of(asked), call) as servable:
            answered = servable.answer(asked, call)
            with call.spend("encode"):
                return predict_wire.serialize(answered, as_content=servable.options.as_tensor_content)

    @contextlib.contextmanager
    def servable(self, spec: model_pb2.ModelSpec, call: Call) -> Iterator[Servable]:
        """The version to run a signature of, for a wire that has a form of its own for inputs and outputs."""
        call.signature = spec.signature_name or DEFAULT_SIGNATURE
        with self._lease(spec, call) as servable:
            yield servable

    def classify(
        self, request: classification_pb2.ClassificationRequest, call: Call
    ) -> classification_pb2.ClassificationResponse:
        """Classify: classes and scores of every Example."""
        with self.servable(_required_spec(request), call) as servable:
            return servable.classify(request, call)

    def regress(self, request: regression_pb2.RegressionRequest, call: Call) -> regression_pb2.RegressionResponse:
        """Regress: a value of every Example."""
        with self.servable(_required_spec(request), call) as servable:
            return servable.regress(request, call)

    def multi_inference(
        self, request: inference_pb2.MultiInferenceRequest, call: Call
    ) -> inference_pb2.MultiInferenceResponse:
        """MultiInference: several classify and regress signatures of one model, in one run."""
        with self.servable(multi_inference.spec(request), call) as servable:
            return servable.multi_inference(request, call)

    def get_model_metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, call: Call
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """GetModelMetadata: the signatures of a version."""
        spec = _required_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._lease(spec, call) as servable:
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            response.metadata["signature_def"].Pack(servable.metadata())
        return response

    def get_model_status(
        self, request: get_model_status_pb2.GetModelStatusRequest, call: Call
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """GetModelStatus: the state of one version, or of all; a label is passed over."""
        spec = _required_spec(request)
        call.model = spec.name
        statuses = self._lifecycle.status(spec.name)
        if spec.HasField("version"):
            statuses = [status for status in statuses if status.version == spec.version.value]
            if not statuses:
                text = f"Could not find version {spec.version.value} of model {spec.name}"
                raise not_found(text)
            call.version = spec.version.value
        if not statuses:
            raise not_found(f"Could not find any versions of model {spec.name}")
        return get_model_status_pb2.GetModelStatusResponse(model_version_status=statuses)

    @contextlib.contextmanager
    def _lease(self, spec: model_pb2.ModelSpec, call: Call) -> Iterator[Servable]:
        """The version that a spec means, which stays loaded until the context ends."""
        call.model = spec.name
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        number = spec.version.value if spec.HasField("version") else None
        label = spec.version_label if spec.WhichOneof("version_choice") == "version_label" else None
        with self._lifecycle.lease(spec.name, number, label) as servable:
            call.version = servable.version
            yield servable


def _spec_of(asked: Asked) -> model_pb2.ModelSpec:
    if not asked.has_spec:
        raise _no_spec()
    return asked.spec


def _required_spec(request: Any) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise _no_spec()
    return request.model_spec


def _no_spec() -> tf.errors.InvalidArgumentError:
    return invalid("Missing ModelSpec")
