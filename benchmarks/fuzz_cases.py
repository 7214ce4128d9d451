"""The requests of fuzz.py: one of the recorded cases each, a little wrong, and the same for the same number.

At the client's end of the walk SavedModel -> server -> [client].
"""

import dataclasses
import json
import random
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.message import DecodeError, Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from benchmarks import mutations
from benchmarks.raw_client import MODEL, PREDICTION, request

_MESSAGES: dict[str, type[Message]] = {
    "Predict": predict_pb2.PredictRequest,
    "Classify": classification_pb2.ClassificationRequest,
    "Regress": regression_pb2.RegressionRequest,
    "MultiInference": inference_pb2.MultiInferenceRequest,
    "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
    "GetModelStatus": get_model_status_pb2.GetModelStatusRequest,
    "HandleReloadConfigRequest": model_management_pb2.ReloadConfigRequest,
}
_OF_MODELS = frozenset({"GetModelStatus", "HandleReloadConfigRequest"})
_RELOADS = 0.005  # of the requests; each may load a model
_NEIGHBOUR = "half_plus"


@dataclasses.dataclass(frozen=True)
class Case:
    """A request.

    Attributes:
        number: that makes it, with the seed.
        content: the message, or the whole request of HTTP.
        path: gRPC's method; empty for REST.
        parses: whether the content is a message of that method.
        method: of HTTP.
        whole: whether it is a whole request of HTTP, which has to be answered.
    """

    number: int
    content: bytes
    path: str = ""
    parses: bool = True
    method: str = "POST"
    whole: bool = True


class Corpus:
    """What is made wrong."""

    def __init__(self, cases: str, config: str):
        """Takes the recorded cases, one a line, and the text of the configuration that serves their models."""
        recorded = [json.loads(line) for line in cases.splitlines()]
        self._messages: list[tuple[str, Message]] = [
            (case["rpc"], json_format.ParseDict(case["request"], _MESSAGES[case["rpc"]]()))
            for case in recorded
            if case["api"] == "grpc"
        ]
        self._rest = [case for case in recorded if case["api"] != "grpc"]
        self._reload = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(config, self._reload.config)

    def case(self, seed: int, number: int) -> Case:
        """The request of a number."""
        generator = random.Random(f"{seed} {number}")
        return self._over_grpc(number, generator) if generator.random() < 0.6 else self._over_rest(number, generator)

    @staticmethod
    def neighbour() -> bytes:
        """A PredictRequest that is well formed."""
        message = predict_pb2.PredictRequest()
        message.model_spec.name, message.model_spec.version.value = _NEIGHBOUR, 1
        message.inputs["x"].dtype = 1
        message.inputs["x"].tensor_shape.dim.add(size=3)
        message.inputs["x"].float_val.extend([1.0, 2.0, 5.0])
        return message.SerializeToString()

    def _over_grpc(self, number: int, generator: random.Random) -> Case:
        method, message = generator.choice(self._messages)
        if generator.random() < _RELOADS / 0.6:
            method, message = "HandleReloadConfigRequest", self._reload
        if generator.random() < 0.5:
            content = mutations.a_message(message, generator).SerializeToString()
        else:
            other = generator.choice(self._messages)[1].SerializeToString()
            content = mutations.some_bytes(message.SerializeToString(), other, generator)
        parsed = _parsed(method, content)
        if method == "HandleReloadConfigRequest" and parsed is not None and not self._keeps_the_neighbour(parsed):
            content = self._reload.SerializeToString()
        if generator.random() < 0.02:  # to another method
            method = generator.choice(sorted(set(_MESSAGES) - {"HandleReloadConfigRequest"}))
            parsed = _parsed(method, content)
        service = MODEL if method in _OF_MODELS else PREDICTION
        return Case(number, content, path=service + method, parses=parsed is not None)

    def _keeps_the_neighbour(self, reload: Any) -> bool:
        """Whether the well-formed requests are still answered afterwards."""

        def neighbour(request: Any) -> list[Any]:
            return [one for one in request.config.model_config_list.config if one.name == _NEIGHBOUR]

        return reload.config.WhichOneof("config") != "model_config_list" or neighbour(reload) == neighbour(self._reload)

    def _over_rest(self, number: int, generator: random.Random) -> Case:
        recorded = generator.choice(self._rest)
        method, path, headers = recorded["method"], recorded["path"], dict(recorded["headers"])
        body = (recorded["body"] or "").encode()
        other = (generator.choice(self._rest)["body"] or "").encode()
        change = generator.random()
        whole = True
        if change < 0.4 and (document := _document(body)) is not None:
            body = json.dumps(mutations.a_document(document, generator)).encode()
        elif change < 0.7:
            body = mutations.some_bytes(body, other, generator)
        elif change < 0.8:
            path = mutations.a_path(path, generator)
            whole = path.isascii() and path.isprintable() and " " not in path
        elif change < 0.85:
            method = mutations.a_method(generator)
            whole = method not in ("", "HEAD", "CONNECT")
        elif change < 0.95:
            headers = mutations.some_headers(headers, generator)
            whole = not {"Transfer-Encoding", "Content-Length", "Upgrade"} & set(headers)
        content = request(method, path, body, headers)
        if change >= 0.95:
            content, whole = mutations.some_bytes(content, other, generator), False
        return Case(number, content, method=method, whole=whole)


def _parsed(method: str, content: bytes) -> Message | None:
    try:
        return _MESSAGES[method].FromString(content)
    except DecodeError:
        return None


def _document(body: bytes) -> Any:
    """The JSON of a body; None if it has none."""
    try:
        return json.loads(body)
    except ValueError:
        return None
