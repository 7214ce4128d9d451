"""MultiInference, apart from the run: several classify and regress signatures of one model, on the same Examples.

Between the wire and a loaded version (servable.py) on the way SavedModel -> server -> client. Checks, their order and
their texts are TensorFlow Serving's.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import inference_pb2, model_pb2

from serving import classification, regression
from serving.prediction import DEFAULT_SIGNATURE
from serving.status import invalid

Signatures = Mapping[str, meta_graph_pb2.SignatureDef]
_KINDS = {kind.METHOD: kind for kind in (classification, regression)}


def spec(request: inference_pb2.MultiInferenceRequest) -> model_pb2.ModelSpec:
    """Which model and version answer all the tasks: the first one's."""
    return request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()


def check(signatures: Signatures, request: inference_pb2.MultiInferenceRequest, *, check_method: bool) -> None:
    """Refuses tasks that are of two models, of one signature twice, or of one that does not fit.

    Raises:
        tf.errors.InvalidArgumentError: with the reason.
        tf.errors.UnimplementedError: a method that is neither classify nor regress.
    """
    seen: set[str] = set()
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        key = _key(task)
        if key in seen:
            raise invalid(f"Duplicate evaluation of signature: {key}")
        seen.add(key)
        if key not in signatures:
            raise invalid(f"Requested signature not found in model graph: {key}")
        if task.method_name not in _KINDS:
            text = f"Unsupported signature method_name: {task.method_name}"
            raise tf.errors.UnimplementedError(None, None, text)
        _KINDS[task.method_name].check(signatures[key], check_method=check_method)


def feeds(signatures: Signatures, request: inference_pb2.MultiInferenceRequest) -> list[str]:
    """The names of the tensors to feed, all with the same Examples."""
    return sorted({signatures[_key(task)].inputs[_KINDS[task.method_name].INPUTS].name for task in request.tasks})


def fetches(signatures: Signatures, request: inference_pb2.MultiInferenceRequest) -> list[str]:
    """The names of the tensors to run for."""
    return sorted({name for task in request.tasks for name in _KINDS[task.method_name].fetches(signatures[_key(task)])})


def response(
    signatures: Signatures,
    request: inference_pb2.MultiInferenceRequest,
    version: int,
    count: int,
    values: Mapping[str, np.ndarray],
) -> inference_pb2.MultiInferenceResponse:
    """The answer: one result a task, in their order.

    Args:
        signatures: of the version.
        request: that was run.
        version: that answered.
        count: of Examples.
        values: what the run answered, by the name of the tensor.

    Raises:
        tf.errors.InvalidArgumentError: a result is not what its method answers.
    """
    answer = inference_pb2.MultiInferenceResponse()
    for task in request.tasks:
        key = _key(task)
        result = answer.results.add()
        result.model_spec.name, result.model_spec.signature_name = task.model_spec.name, key
        result.model_spec.version.value = version
        if task.method_name == classification.METHOD:
            result.classification_result.CopyFrom(classification.result(signatures[key], count, values))
        else:
            result.regression_result.CopyFrom(regression.result(signatures[key], count, values))
    return answer


def _key(task: inference_pb2.InferenceTask) -> str:
    return task.model_spec.signature_name or DEFAULT_SIGNATURE
