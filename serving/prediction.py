"""Predict, apart from the run: what a request feeds and fetches, and the response.

Between the wire and a loaded version (servable.py) on the way SavedModel -> server -> client. What is asked and what is
answered have a form here that is no message yet, so that predict_wire.py can make it of a request's bytes, and bytes of
it, without a message in between. Checks, their order and their texts are TensorFlow Serving's.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import model_pb2, predict_pb2

from serving import tensors
from serving.status import internal, invalid, unmet

DEFAULT_SIGNATURE = "serving_default"
_METHODS = tuple(f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress"))


@dataclasses.dataclass(frozen=True)
class Asked:
    """A PredictRequest.

    Attributes:
        spec: the model, its version and its signature.
        inputs: by alias; an array where the request's bytes are the array's, the message where they are not.
        outputs: aliases that are wanted, in their order; all if empty.
        has_spec: whether the request has a spec at all.
    """

    spec: model_pb2.ModelSpec
    inputs: Mapping[str, tensor_pb2.TensorProto | np.ndarray]
    outputs: Sequence[str] = ()
    has_spec: bool = True

    @classmethod
    def of(cls, request: predict_pb2.PredictRequest) -> Self:
        """What a message asks."""
        return cls(request.model_spec, request.inputs, request.output_filter, request.HasField("model_spec"))


@dataclasses.dataclass(frozen=True)
class Answered:
    """A PredictResponse: which version answered, and its outputs by alias, as a run answers them."""

    spec: model_pb2.ModelSpec
    outputs: Mapping[str, np.ndarray | np.generic | bytes]

    def message(self, *, as_content: bool) -> predict_pb2.PredictResponse:
        """The message; `as_content` as in tensors.to_proto."""
        response = predict_pb2.PredictResponse(model_spec=self.spec)
        for alias, value in self.outputs.items():
            tensors.to_proto(value, response.outputs[alias], as_content=as_content)
        return response


def find(signatures: Mapping[str, meta_graph_pb2.SignatureDef], key: str) -> meta_graph_pb2.SignatureDef:
    """The signature of a key.

    Raises:
        tf.errors.FailedPreconditionError: there is none.
    """
    if key not in signatures:  # the map of a message would make one
        raise unmet(f'Serving signature key "{key}" not found.')
    return signatures[key]


def printed(signature: meta_graph_pb2.SignatureDef) -> str:
    """A signature as protobuf's C++ prints it: behind a mark that keeps programs from reading it."""
    return f"goo.gle/debugproto  \n{signature}"


def feeds(signature: meta_graph_pb2.SignatureDef, asked: Asked, *, check_method: bool) -> dict[str, np.ndarray]:
    """Tensor name -> array for every input of the signature.

    Args:
        signature: that is asked.
        asked: with the inputs.
        check_method: refuse a signature that is none of predict, classify and regress.

    Raises:
        tf.errors.InternalError: with check_method, the signature is of another method.
        tf.errors.InvalidArgumentError: an input is missing, unknown, or no tensor.
    """
    if check_method and signature.method_name not in _METHODS:
        expected = f"Expected prediction signature method_name to be one of {{{', '.join(_METHODS)}}}"
        raise internal(f"{expected}. Was: {signature.method_name}")
    _check_size(signature, asked.inputs.keys())
    return {
        info.name: _array(alias, _value(signature, asked.inputs, alias))
        for alias, info in sorted(signature.inputs.items())
    }


def outputs(signature: meta_graph_pb2.SignatureDef, asked: Asked) -> list[str]:
    """The aliases to answer: those that are wanted, in their order, or all.

    Raises:
        tf.errors.InvalidArgumentError: an alias is unknown, or wanted twice.
    """
    seen: set[str] = set()
    for alias in asked.outputs:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_braced(signature.outputs)}."
            )
        if alias in seen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return list(asked.outputs) or sorted(signature.outputs)


def _check_size(signature: meta_graph_pb2.SignatureDef, aliases: Iterable[str]) -> None:
    sent, wanted = set(aliases), set(signature.inputs)
    if len(sent) > len(wanted) or (len(sent) < len(wanted) and not signature.defaults):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_braced(sent)}) != "
            f"len({_braced(wanted)}). Sent extra: {_braced(sent - wanted)}. "
            f"Missing but required: {_braced(wanted - sent)}."
        )


def _value(
    signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, tensor_pb2.TensorProto | np.ndarray], alias: str
) -> tensor_pb2.TensorProto | np.ndarray:
    if alias in inputs:
        return inputs[alias]
    if alias in signature.defaults:
        return signature.defaults[alias]
    raise invalid(
        f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found in request and no "
        f"default value provided. Inputs expected to be in the request {_braced(inputs)}, or default input alias set: "
        f"{','.join(sorted(signature.defaults))}"
    )


def _array(alias: str, value: tensor_pb2.TensorProto | np.ndarray) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    try:
        return tensors.from_proto(value)
    except ValueError as error:
        raise invalid(f"tensor parsing error: {alias}") from error


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
