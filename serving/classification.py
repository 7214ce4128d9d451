"""Classify, apart from the run: what a signature is fetched for, and the classes and scores of what comes back.

Between the wire and a loaded version (servable.py) on the way SavedModel -> server -> client. Checks, their order and
their texts are TensorFlow Serving's.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import classification_pb2

from serving import tensors
from serving.prediction import printed
from serving.status import invalid

METHOD = "tensorflow/serving/classify"
INPUTS = "inputs"
_CLASSES, _SCORES = "classes", "scores"


def check(signature: meta_graph_pb2.SignatureDef, *, check_method: bool) -> None:
    """Refuses a signature that takes no Examples, or answers neither classes nor scores.

    Raises:
        tf.errors.InvalidArgumentError: with the reason.
    """
    if check_method and signature.method_name != METHOD:
        raise invalid(f"Expected classification signature method_name to be {METHOD}. Was: {signature.method_name}")
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if INPUTS not in signature.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {printed(signature)}")
    if not fetches(signature):
        raise invalid(
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}". '
            f"Signature was: {printed(signature)}"
        )


def fetches(signature: meta_graph_pb2.SignatureDef) -> list[str]:
    """The names of the tensors to run for."""
    return [signature.outputs[alias].name for alias in (_CLASSES, _SCORES) if alias in signature.outputs]


def result(
    signature: meta_graph_pb2.SignatureDef, count: int, values: Mapping[str, np.ndarray]
) -> classification_pb2.ClassificationResult:
    """The answer.

    Args:
        signature: that was run.
        count: of Examples.
        values: what the run answered, by the name of the tensor: classes: string [count, k], scores: float32
            [count, k], or one of them.

    Raises:
        tf.errors.InvalidArgumentError: they are not that.
    """
    classes = _matrix(signature, _CLASSES, tf.string, count, values)
    scores = _matrix(signature, _SCORES, tf.float32, count, values)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    answer = classification_pb2.ClassificationResult()
    for row in range(count):
        line = answer.classifications.add().classes
        labels = None if classes is None else classes[row]
        marks = None if scores is None else scores[row].tolist()
        for column in range(len(labels if marks is None else marks)):
            entry = line.add()
            if labels is not None:
                entry.label = labels[column].decode(errors="replace")  # the field takes UTF-8 alone
            if marks is not None:
                entry.score = marks[column]
    return answer


def _matrix(
    signature: meta_graph_pb2.SignatureDef,
    alias: str,
    dtype: tf.DType,
    count: int,
    values: Mapping[str, np.ndarray],
) -> np.ndarray | None:
    if alias not in signature.outputs:
        return None
    array = values[signature.outputs[alias].name]
    if array.ndim != 2:
        raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {tensors.shape_text(array.shape)}")
    if tensors.dtype_of(array) != dtype:
        expected, got = tensors.dtype_name(dtype), tensors.dtype_name(tensors.dtype_of(array))
        raise invalid(f"Expected {alias} Tensor of {expected}. Got: {got}")
    if len(array) != count:
        raise invalid(f"Expected {alias} output batch size of {count}. Got: {len(array)}")
    return array
