"""One loaded version of a model: its signatures, and Predict.

The middle of the server: what lifecycle.py loads and unloads, and what answers.py runs a request on. Everything here
is checked in the order, and answered with the texts, of TensorFlow Serving.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from serving import saved_model, tensors
from serving.runtime import Runtime

_DEFAULT_SIGNATURE = "serving_default"
_METHODS = tuple(f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress"))


@dataclasses.dataclass(frozen=True)
class Options:
    """How versions are loaded and how they answer.

    Attributes:
        tags: of the meta graph to load.
        config: threads and devices of the session.
        as_tensor_content: answer with tensor_content, not float_val and so on.
    """

    tags: frozenset[str] = frozenset({"serve"})
    config: config_pb2.ConfigProto = dataclasses.field(default_factory=config_pb2.ConfigProto)
    as_tensor_content: bool = False


class Servable:
    """A version that can be run, by many threads at once, until closed."""

    def __init__(
        self,
        name: str,
        version: int,
        signatures: get_model_metadata_pb2.SignatureDefMap,
        runtime: Runtime,
        *,
        as_tensor_content: bool = False,
    ):
        self.name = name
        self.version = version
        self._signatures = signatures
        self._runtime = runtime
        self._as_tensor_content = as_tensor_content

    @classmethod
    def load(cls, name: str, version: int, path: Path, options: Options) -> Self:
        """Loads a version.

        Raises:
            tf.errors.OpError: what keeps it from being loaded.
        """
        if not path.is_dir():
            text = f"Error while attempting to reserve resources to load servable {{name: {name} version: {version}}}"
            raise tf.errors.FailedPreconditionError(None, None, f"{text}: {path}; Not a directory")
        meta_graph = saved_model.read_meta_graph(path, options.tags)
        saved_model.check_window(path, meta_graph)
        # A copy: a part of a message keeps the whole of it, the graph too, in memory.
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for key, signature in meta_graph.signature_def.items():
            signatures.signature_def[key].CopyFrom(signature)
        runtime = saved_model.restore(path, meta_graph, options.config)
        return cls(name, version, signatures, runtime, as_tensor_content=options.as_tensor_content)

    def metadata(self) -> get_model_metadata_pb2.SignatureDefMap:
        """The signatures as GetModelMetadata shows them, without their default values."""
        shown = get_model_metadata_pb2.SignatureDefMap()
        shown.CopyFrom(self._signatures)
        for signature in shown.signature_def.values():
            signature.ClearField("defaults")
        return shown

    def predict(self, request: predict_pb2.PredictRequest, timeout: float | None = None) -> predict_pb2.PredictResponse:
        """Answers a request; its model_spec is read for the signature alone.

        Args:
            request: inputs by alias, and the aliases of the outputs that are wanted if not all.
            timeout: seconds after which the run is stopped.

        Raises:
            tf.errors.OpError: with the code and the text that the caller gets.
        """
        key = request.model_spec.signature_name or _DEFAULT_SIGNATURE
        if key not in self._signatures.signature_def:
            raise tf.errors.FailedPreconditionError(None, None, f'Serving signature key "{key}" not found.')
        signature = self._signatures.signature_def[key]
        feeds = _feeds(signature, request)
        aliases = _outputs(signature, request)
        values = self._runtime.run(feeds, [signature.outputs[alias].name for alias in aliases], timeout=timeout)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = self.version
        response.model_spec.signature_name = key
        for alias, value in zip(aliases, values, strict=True):
            tensors.to_proto(value, response.outputs[alias], as_content=self._as_tensor_content)
        return response

    def close(self) -> None:
        """Gives the memory back. No request may be under way, and none may follow."""
        self._runtime.close()


def _feeds(signature: meta_graph_pb2.SignatureDef, request: predict_pb2.PredictRequest) -> dict[str, np.ndarray]:
    """Tensor name -> array for every input of the signature."""
    if signature.method_name not in _METHODS:
        expected = f"Expected prediction signature method_name to be one of {{{', '.join(_METHODS)}}}"
        raise tf.errors.InternalError(None, None, f"{expected}. Was: {signature.method_name}")
    sent, wanted = set(request.inputs), set(signature.inputs)
    if len(sent) > len(wanted) or (len(sent) < len(wanted) and not signature.defaults):
        raise _invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_braced(sent)}) != "
            f"len({_braced(wanted)}). Sent extra: {_braced(sent - wanted)}. "
            f"Missing but required: {_braced(wanted - sent)}."
        )
    feeds = {}
    for alias, info in sorted(signature.inputs.items()):
        if alias not in sent and alias not in signature.defaults:
            raise _invalid(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_braced(sent)}, or default input alias set: "
                f"{','.join(sorted(signature.defaults))}"
            )
        proto = request.inputs[alias] if alias in sent else signature.defaults[alias]
        try:
            feeds[info.name] = tensors.from_proto(proto)
        except ValueError as error:
            raise _invalid(f"tensor parsing error: {alias}") from error
    return feeds


def _outputs(signature: meta_graph_pb2.SignatureDef, request: predict_pb2.PredictRequest) -> list[str]:
    """The aliases to answer: those of the filter in its order, or all."""
    seen: set[str] = set()
    for alias in request.output_filter:
        if alias not in signature.outputs:
            raise _invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_braced(signature.outputs)}."
            )
        if alias in seen:
            raise _invalid(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return list(request.output_filter) or sorted(signature.outputs)


def _invalid(text: str) -> tf.errors.InvalidArgumentError:
    return tf.errors.InvalidArgumentError(None, None, text)


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
