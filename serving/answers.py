"""The answers to the API's methods, whatever carries them: which version a request means, and what it gets.

On the way SavedModel -> server -> client between the loaded versions and services.py, which brings requests in over
gRPC. Messages, codes and texts are TensorFlow Serving's; an error's code is that of its class in tf.errors.
"""

from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2, predict_pb2

from serving.lifecycle import Lifecycle


class Answers:
    """PredictionService and ModelService, over one set of models.

    Every method raises tf.errors.OpError with the code and the text that the caller gets.
    """

    def __init__(self, lifecycle: Lifecycle):
        """Answers from what the lifecycle has loaded."""
        self._lifecycle = lifecycle

    def predict(self, request: predict_pb2.PredictRequest, timeout: float | None = None) -> predict_pb2.PredictResponse:
        """Predict: runs a signature, for as long as the call's deadline leaves."""
        with self._lifecycle.lease(*_model(request)) as servable:
            return servable.predict(request, timeout)

    def get_model_metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """GetModelMetadata: the signatures of a version."""
        _require_spec(request)
        if not request.metadata_field:
            raise _invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise _invalid(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._lifecycle.lease(*_model(request)) as servable:
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            response.metadata["signature_def"].Pack(servable.metadata())
        return response

    def get_model_status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """GetModelStatus: the state of one version, or of all."""
        _require_spec(request)
        spec = request.model_spec
        statuses = self._lifecycle.status(spec.name)
        if spec.HasField("version"):
            statuses = [status for status in statuses if status.version == spec.version.value]
            if not statuses:
                text = f"Could not find version {spec.version.value} of model {spec.name}"
                raise tf.errors.NotFoundError(None, None, text)
        if not statuses:
            raise tf.errors.NotFoundError(None, None, f"Could not find any versions of model {spec.name}")
        return get_model_status_pb2.GetModelStatusResponse(model_version_status=statuses)


def _require_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise _invalid("Missing ModelSpec")


def _model(request: Any) -> tuple[str, int | None]:
    """The model that a request names, and its version where it names one."""
    _require_spec(request)
    spec: model_pb2.ModelSpec = request.model_spec
    if not spec.name:
        raise _invalid("ModelSpec has no name specified.")
    if spec.WhichOneof("version_choice") == "version_label":
        raise _invalid(f"Unrecognized servable version label: {spec.version_label}")
    return spec.name, spec.version.value if spec.HasField("version") else None


def _invalid(text: str) -> tf.errors.InvalidArgumentError:
    return tf.errors.InvalidArgumentError(None, None, text)
