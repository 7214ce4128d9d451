"""One loaded version of a model: its signatures, and what it answers.

The middle of the server on the way SavedModel -> server -> client: what lifecycle.py loads and unloads, and what
answers.py runs a request on. What a method feeds, fetches and answers stands in prediction.py, classification.py,
regression.py and multi_inference.py; everything is checked in the order, and answered with the texts, of TensorFlow
Serving.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Self

import numpy as np
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving import classification, examples, multi_inference, prediction, regression, saved_model, tensors
from serving.call import Call
from serving.prediction import DEFAULT_SIGNATURE, Answered, Asked
from serving.runtime import Runtime
from serving.session_batching import Batching, SessionBatching
from serving.status import invalid, unmet


@dataclasses.dataclass(frozen=True)
class ServableOptions:
    """How versions are loaded and how they answer.

    Attributes:
        tags: of the meta graph to load.
        config: threads and devices of the session.
        as_tensor_content: answer Predict with tensor_content, not float_val and so on.
        check_method: refuse a signature whose method is not the one that is asked.
        batching: join requests; each runs by itself if None.
    """

    tags: frozenset[str] = frozenset({"serve"})
    config: config_pb2.ConfigProto = dataclasses.field(default_factory=config_pb2.ConfigProto)
    as_tensor_content: bool = False
    check_method: bool = False
    batching: Batching | None = None


class Servable:
    """A version that can be run, by many threads at once, until closed.

    Every answer raises tf.errors.OpError with the code and the text that the caller gets. Of a request's model_spec
    they read the signature alone.
    """

    def __init__(
        self,
        name: str,
        version: int,
        signatures: get_model_metadata_pb2.SignatureDefMap,
        runtime: Runtime,
        options: ServableOptions,
        batching: SessionBatching | None = None,
    ):
        self.name = name
        self.version = version
        self.options = options
        self._map = signatures
        self._signatures: Mapping[str, meta_graph_pb2.SignatureDef] = dict(signatures.signature_def)
        self._runtime = runtime
        self._batching = batching

    @classmethod
    def load(cls, name: str, version: int, path: Path, options: ServableOptions) -> Self:
        """Loads a version.

        Raises:
            tf.errors.OpError: what keeps it from being loaded.
        """
        if not path.is_dir():
            text = f"Error while attempting to reserve resources to load servable {{name: {name} version: {version}}}"
            raise unmet(f"{text}: {path}; Not a directory")
        meta_graph = saved_model.read_meta_graph(path, options.tags)
        saved_model.check_window(path, meta_graph)
        # A copy: a part of a message keeps the whole of it, the graph too, in memory.
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for key, signature in meta_graph.signature_def.items():
            signatures.signature_def[key].CopyFrom(signature)
        with contextlib.ExitStack() as undo:
            runtime = saved_model.restore(path, meta_graph, options.config)
            undo.callback(runtime.close)
            batching = None if options.batching is None else options.batching.wrap(runtime, path)
            undo.pop_all()
        return cls(name, version, signatures, runtime, options, batching)

    def metadata(self) -> get_model_metadata_pb2.SignatureDefMap:
        """The signatures as GetModelMetadata shows them, without their default values."""
        shown = get_model_metadata_pb2.SignatureDefMap()
        shown.CopyFrom(self._map)
        for signature in shown.signature_def.values():
            signature.ClearField("defaults")
        return shown

    def inputs(self, signature: str) -> Mapping[str, meta_graph_pb2.TensorInfo]:
        """The inputs of a signature by alias; of the default one for an empty name."""
        key = signature or DEFAULT_SIGNATURE
        if key not in self._signatures:
            raise invalid(f'Serving signature name: "{key}" not found in signature def')
        return self._signatures[key].inputs

    def predict(self, request: predict_pb2.PredictRequest, call: Call | None = None) -> predict_pb2.PredictResponse:
        """Predict: runs a signature."""
        return self.answer(Asked.of(request), call).message(as_content=self.options.as_tensor_content)

    def answer(self, asked: Asked, call: Call | None = None) -> Answered:
        """Predict, of what is no message yet, with an answer that is none yet."""
        key = asked.spec.signature_name or DEFAULT_SIGNATURE
        signature = prediction.find(self._signatures, key)
        feeds = prediction.feeds(signature, asked, check_method=self.options.check_method)
        aliases = prediction.outputs(signature, asked)
        values = self._run(feeds, [signature.outputs[alias].name for alias in aliases], call)
        return Answered(self._spec(asked.spec), dict(zip(aliases, values, strict=True)))

    def classify(
        self, request: classification_pb2.ClassificationRequest, call: Call | None = None
    ) -> classification_pb2.ClassificationResponse:
        """Classify: classes and scores of every Example."""
        signature = self._of_method(classification, request.model_spec)
        count, values = self._run_examples(
            request.input, [signature.inputs[classification.INPUTS].name], classification.fetches(signature), call
        )
        return classification_pb2.ClassificationResponse(
            model_spec=self._spec(request.model_spec), result=classification.result(signature, count, values)
        )

    def regress(
        self, request: regression_pb2.RegressionRequest, call: Call | None = None
    ) -> regression_pb2.RegressionResponse:
        """Regress: a value of every Example."""
        signature = self._of_method(regression, request.model_spec)
        count, values = self._run_examples(
            request.input, [signature.inputs[regression.INPUTS].name], regression.fetches(signature), call
        )
        return regression_pb2.RegressionResponse(
            model_spec=self._spec(request.model_spec), result=regression.result(signature, count, values)
        )

    def multi_inference(
        self, request: inference_pb2.MultiInferenceRequest, call: Call | None = None
    ) -> inference_pb2.MultiInferenceResponse:
        """MultiInference: several classify and regress signatures in one run."""
        signatures = self._signatures
        multi_inference.check(signatures, request, check_method=self.options.check_method)
        feeds, fetches = multi_inference.feeds(signatures, request), multi_inference.fetches(signatures, request)
        count, values = self._run_examples(request.input, feeds, fetches, call)
        if call is not None:
            call.examples = count
        return multi_inference.response(signatures, request, self.version, count, values)

    def close(self) -> None:
        """Gives the memory back. No request may be under way, and none may follow."""
        self._runtime.close()

    def _of_method(self, method: ModuleType, spec: model_pb2.ModelSpec) -> meta_graph_pb2.SignatureDef:
        """The signature of a spec, which has to suit classification.py or regression.py."""
        key = spec.signature_name or DEFAULT_SIGNATURE
        if key not in self._signatures:
            raise invalid(f"No signature was found with the name: {key}")
        method.check(self._signatures[key], check_method=self.options.check_method)
        return self._signatures[key]

    def _run_examples(
        self, given: input_pb2.Input, feeds: Iterable[str], fetches: Sequence[str], call: Call | None
    ) -> tuple[int, dict[str, np.ndarray]]:
        """Feeds the same Examples to some tensors: how many they are, and arrays by the name of the fetched tensor."""
        rows = examples.serialized(given)
        values = self._run(dict.fromkeys(feeds, rows), fetches, call)
        arrays = [tensors.as_array(value) for value in values]
        return len(rows), dict(zip(fetches, arrays, strict=True))

    def _run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], call: Call | None) -> list[np.ndarray]:
        """Runs, for as long as the call's deadline leaves, unless its caller has gone already."""
        if call is not None:
            call.check()
            call.rows = next((len(array) for array in feeds.values() if array.ndim), 0)
        if self._batching is not None:
            return self._batching.run(feeds, fetches, call)
        if call is None:
            return self._runtime.run(feeds, fetches)
        with call.spend("run"):
            return self._runtime.run(feeds, fetches, timeout=call.remaining())

    def _spec(self, asked: model_pb2.ModelSpec) -> model_pb2.ModelSpec:
        """The spec of an answer: the name that was asked, the version and the signature that answered."""
        spec = model_pb2.ModelSpec(name=asked.name, signature_name=asked.signature_name or DEFAULT_SIGNATURE)
        spec.version.value = self.version
        return spec
