"""Requests to a served model, each with what it has to be answered: the golden answers of the version that answers.

The end of the walk SavedModel -> server -> client, seen from outside. The requests are those that two versions of
random_model.py bring for their warm-up, over gRPC and as the JSON of REST, and some that have to be refused.
"""

import base64
import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    prediction_log_pb2,
)

from benchmarks.raw_client import MODEL, PREDICTION, request
from vit22b import signature, wire_pb2
from vit22b.difference import difference
from vit22b.tensors import from_wire

Arrays = Mapping[str, npt.NDArray[Any]]
_PREDICT = PREDICTION + "Predict"
_BATCH_TOO_LARGE = 1000


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request.

    Attributes:
        name: what it is, for the report.
        path: gRPC's method; empty for REST.
        content: of the message; or the whole request of HTTP.
        code: that it has to be answered with, as in raw_client.Reply.
        wrong: what is wrong with an answer, "" if nothing is.
        spec: whether a version can be asked for by `pinned`.
    """

    name: str
    path: str
    content: bytes
    code: str = "OK"
    wrong: Callable[[bytes], str] = lambda _content: ""
    spec: bool = False

    def other_version(self, content: bytes, version: int | None) -> str:
        """What is wrong where a version was asked for, and another one answers."""
        if version is None:
            return ""
        answered = wire_pb2.PredictResponse.FromString(content).model_spec.version.value
        return "" if answered == version else f"version {version} was asked for, and {answered} answers"

    def pinned(self, version: int) -> bytes:
        """The content, with the version asked for."""
        message = predict_pb2.PredictRequest.FromString(self.content)
        message.model_spec.version.value = version
        return message.SerializeToString()


@dataclasses.dataclass(frozen=True)
class Golden:
    """A request of the warm-up, and its answer by version: of the odd numbers, and of the even ones."""

    request: predict_pb2.PredictRequest
    answers: tuple[Arrays, Arrays]

    def of(self, version: int) -> Arrays:
        """The answer of a version."""
        return self.answers[(version + 1) % 2]


def golden(odd: Path, even: Path) -> list[Golden]:
    """What two versions of the same signatures bring."""
    found = []
    for one, other in zip(_logs(odd), _logs(even), strict=True):
        answers = [
            {name: tf.make_ndarray(proto) for name, proto in log.response.outputs.items()} for log in (one, other)
        ]
        found.append(Golden(one.request, (answers[0], answers[1])))
    return found


def _logs(version: Path) -> Iterator[prediction_log_pb2.PredictLog]:
    for record in tf.data.TFRecordDataset(str(version / signature.WARMUP_FILE)):
        yield prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log


def asks(model: str, goldens: Sequence[Golden]) -> list[Ask]:
    """All of them, each with its answer."""
    found = [_status(model), _metadata(model), *_rest_pages(model)]
    for each in goldens:
        found.append(_predict(each))
        if each.request.inputs:
            found.append(_rest_predict(model, each))
        if each.request.model_spec.signature_name == signature.CLASSIFY_EXAMPLES:
            found += _classify(model, each)
        if each.request.model_spec.signature_name == signature.EMBED_IMAGE_EACH:
            found.append(_one_bad_image(each))
    return found + refused(model, goldens)


def refused(model: str, goldens: Sequence[Golden]) -> list[Ask]:
    """Requests that a server has to refuse, while it answers their neighbours."""
    images = next(
        each.request for each in goldens if each.request.model_spec.signature_name == signature.SERVING_DEFAULT
    )
    pixels = next(each.request for each in goldens if each.request.model_spec.signature_name == signature.EMBED_PIXELS)
    good = images.inputs[signature.IMAGE_BYTES].string_val[0]
    found = []
    for name, image in (("cut image", good[: len(good) // 2]), ("no image", b"no image"), ("empty image", b"")):
        bad = changed(images, **{signature.IMAGE_BYTES: np.array([image], object)})
        found.append(Ask(name, _PREDICT, bad.SerializeToString(), "INVALID_ARGUMENT"))
        body = {"inputs": [{"b64": base64.b64encode(image).decode()}]}
        found.append(Ask(f"REST {name}", "", _rest(model, body), "400"))
    shape = tf.make_ndarray(pixels.inputs[signature.PIXELS]).shape[1:]
    large = changed(pixels, **{signature.PIXELS: np.zeros((_BATCH_TOO_LARGE, *shape), np.uint8)})
    unknown = changed(pixels)
    unknown.model_spec.signature_name = "nope"
    nobody = changed(pixels)
    nobody.model_spec.name = "nobody"
    return [
        *found,
        Ask("large batch", _PREDICT, large.SerializeToString(), "INVALID_ARGUMENT"),
        Ask("unknown signature", _PREDICT, unknown.SerializeToString(), "FAILED_PRECONDITION"),
        Ask("unknown model", _PREDICT, nobody.SerializeToString(), "NOT_FOUND"),
        Ask("REST unknown model", "", _rest("nobody", {"inputs": [1]}), "404"),
        Ask("REST no JSON", "", request("POST", f"/v1/models/{model}:predict", b"{"), "400"),
    ]


def slow(model: str, goldens: Sequence[Golden], side: int) -> list[Ask]:
    """Requests that take a while, because their images are large: one over gRPC, one over REST."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG", compress_level=1)
    images = next(
        each.request for each in goldens if each.request.model_spec.signature_name == signature.SERVING_DEFAULT
    )
    content = changed(images, **{signature.IMAGE_BYTES: np.array([file.getvalue()], object)}).SerializeToString()
    body = {"inputs": [{"b64": base64.b64encode(file.getvalue()).decode()}]}
    return [Ask("large image", _PREDICT, content), Ask("REST large image", "", _rest(model, body), "200")]


def changed(message: predict_pb2.PredictRequest, **inputs: npt.NDArray[Any]) -> predict_pb2.PredictRequest:
    """A copy with other inputs."""
    copy = predict_pb2.PredictRequest()
    copy.CopyFrom(message)
    for name, value in inputs.items():
        copy.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return copy


def _predict(of: Golden) -> Ask:
    def wrong(content: bytes) -> str:
        response = wire_pb2.PredictResponse.FromString(content)
        outputs = {name: from_wire(tensor) for name, tensor in response.outputs.items()}
        return difference(of.of(response.model_spec.version.value), outputs).problem

    return Ask(_name(of.request), _PREDICT, of.request.SerializeToString(), wrong=wrong, spec=True)


def _one_bad_image(of: Golden) -> Ask:
    """The golden images with one more that is none, which must not change their answers."""
    images = [*of.request.inputs[signature.IMAGE_BYTES].string_val[:-1], b"no image"]
    content = changed(of.request, **{signature.IMAGE_BYTES: np.array(images, object)}).SerializeToString()

    def wrong(content: bytes) -> str:
        response = wire_pb2.PredictResponse.FromString(content)
        expected = {name: value.copy() for name, value in of.of(response.model_spec.version.value).items()}
        for value in expected.values():
            value[-1] = 0
        return difference(expected, {name: from_wire(tensor) for name, tensor in response.outputs.items()}).problem

    return Ask(f"{_name(of.request)} with a bad one", _PREDICT, content, wrong=wrong, spec=True)


def _rest_predict(model: str, of: Golden) -> Ask:
    spec, inputs = of.request.model_spec, {name: _json(proto) for name, proto in of.request.inputs.items()}
    aliases = sorted(of.answers[0])

    def wrong(content: bytes) -> str:
        outputs = json.loads(content)["outputs"]
        # The answer has every output that there is, and does not say which version it is of.
        named = outputs if isinstance(outputs, dict) else {aliases[0]: outputs}
        problems = []
        for expected in of.answers:
            got = {name: _array(named[name], expected[name].dtype) for name in expected}
            problems.append(difference(expected, got).problem)
        return "" if "" in problems else " and ".join(problems)

    body = {"signature_name": spec.signature_name, "inputs": inputs}
    return Ask(f"REST {_name(of.request)}", "", _rest(model, body), "200", wrong)


def _classify(model: str, of: Golden) -> list[Ask]:
    """The Classify API, over both wires."""
    examples = [tf.train.Example.FromString(value) for value in of.request.inputs[signature.EXAMPLES].string_val]
    message = classification_pb2.ClassificationRequest(model_spec=of.request.model_spec)
    message.input.example_list.examples.extend(examples)
    images = [each.features.feature[signature.IMAGE_BYTES].bytes_list.value[0] for each in examples]
    body = {
        "signature_name": signature.CLASSIFY_EXAMPLES,
        "examples": [{signature.IMAGE_BYTES: {"b64": base64.b64encode(image).decode()}} for image in images],
    }

    def wrong(content: bytes) -> str:
        response = classification_pb2.ClassificationResponse.FromString(content)
        scores = [[each.score for each in row.classes] for row in response.result.classifications]
        got = {signature.SCORES: np.array(scores, np.float32)}
        return difference(of.of(response.model_spec.version.value), got).problem

    def rest_wrong(content: bytes) -> str:
        rows = json.loads(content)["results"]
        got = {signature.SCORES: np.array([[score for _, score in row] for row in rows], np.float32)}
        problems = [difference(answer, got).problem for answer in of.answers]
        return "" if "" in problems else " and ".join(problems)

    name = f"classify {len(examples)}"
    return [
        Ask(name, PREDICTION + "Classify", message.SerializeToString(), wrong=wrong),
        Ask(f"REST {name}", "", _rest(model, body, "classify"), "200", rest_wrong),
    ]


def _status(model: str) -> Ask:
    def wrong(content: bytes) -> str:
        statuses = get_model_status_pb2.GetModelStatusResponse.FromString(content).model_version_status
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        return "" if available in [each.state for each in statuses] else "no version is AVAILABLE"

    message = get_model_status_pb2.GetModelStatusRequest()
    message.model_spec.name = model
    return Ask("status", MODEL + "GetModelStatus", message.SerializeToString(), wrong=wrong)


def _metadata(model: str) -> Ask:
    message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = model

    def wrong(content: bytes) -> str:
        response = get_model_metadata_pb2.GetModelMetadataResponse.FromString(content)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return "" if signature.EMBED_PIXELS in signatures.signature_def else "no signature embed_pixels"

    return Ask("metadata", PREDICTION + "GetModelMetadata", message.SerializeToString(), wrong=wrong)


def _rest_pages(model: str) -> list[Ask]:
    def lacks(text: bytes) -> Callable[[bytes], str]:
        return lambda content: "" if text in content else f"{text!r} is not in it"

    pages = {
        f"/v1/models/{model}": b'"AVAILABLE"',
        f"/v1/models/{model}/metadata": b'"embed_pixels"',
        "/monitoring/prometheus/metrics": b":tensorflow:serving:request_count",
        "/statusz": model.encode(),
    }
    return [Ask(f"GET {path}", "", request("GET", path), "200", lacks(text)) for path, text in pages.items()]


def _rest(model: str, body: Mapping[str, Any], method: str = "predict") -> bytes:
    return request("POST", f"/v1/models/{model}:{method}", json.dumps(body).encode())


def _json(proto: Any) -> Any:
    """A tensor as REST takes it."""
    array = tf.make_ndarray(proto)
    if array.dtype == object:
        return [{"b64": base64.b64encode(value).decode()} for value in array.ravel().tolist()]
    return array.tolist()


def _array(value: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A tensor as REST answers it."""
    return np.asarray(value, dtype)


def _name(message: predict_pb2.PredictRequest) -> str:
    sizes = [proto.tensor_shape.dim[0].size for proto in message.inputs.values()]
    return " ".join([message.model_spec.signature_name, *map(str, sizes)])
