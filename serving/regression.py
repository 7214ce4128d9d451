"""Regress, apart from the run: what a signature is fetched for, and the values of what comes back.

Between the wire and a loaded version (servable.py) on the way SavedModel -> server -> client. Checks, their order and
their texts are TensorFlow Serving's.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import regression_pb2

from serving import tensors
from serving.prediction import printed
from serving.status import invalid

METHOD = "tensorflow/serving/regress"
INPUTS = "inputs"
_OUTPUTS = "outputs"


def check(signature: meta_graph_pb2.SignatureDef, *, check_method: bool) -> None:
    """Refuses a signature that takes no Examples, or answers no value of each.

    Raises:
        tf.errors.InvalidArgumentError: with the reason.
    """
    if check_method and signature.method_name != METHOD:
        raise invalid(f"Expected regression signature method_name to be {METHOD}. Was: {signature.method_name}")
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if INPUTS not in signature.inputs:
        raise invalid(f"No regression inputs found in SignatureDef: {printed(signature)}")
    if _OUTPUTS not in signature.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {printed(signature)}")


def fetches(signature: meta_graph_pb2.SignatureDef) -> list[str]:
    """The names of the tensors to run for."""
    return [signature.outputs[_OUTPUTS].name]


def result(
    signature: meta_graph_pb2.SignatureDef, count: int, values: Mapping[str, np.ndarray]
) -> regression_pb2.RegressionResult:
    """The answer.

    Args:
        signature: that was run.
        count: of Examples.
        values: what the run answered, by the name of the tensor: float32 [count] or [count, 1].

    Raises:
        tf.errors.InvalidArgumentError: it is not that.
    """
    array = values[signature.outputs[_OUTPUTS].name]
    if (array.shape != array.shape[:1] and array.shape != (*array.shape[:1], 1)) or not array.ndim:
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{tensors.shape_text(array.shape)}"
        )
    if len(array) != count:
        raise invalid(f"Input batch size did not match output batch size: {count} vs. {len(array)}")
    dtype = tensors.dtype_of(array)
    if dtype != tf.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {tensors.dtype_name(dtype)}")
    answer = regression_pb2.RegressionResult()
    for value in array.ravel().tolist():
        answer.regressions.add(value=value)
    return answer
