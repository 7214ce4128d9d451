"""Requests to a served model, each with what it has to be answered.

The end of the walk SavedModel -> server -> [client], seen from outside: golden_answers.py over gRPC and over REST, in
every API that they fit, and requests that have to be refused while their neighbours are answered.
"""

import base64
import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)

from benchmarks.golden_answers import Arrays, Golden
from benchmarks.raw_client import MODEL, PREDICTION, request
from vit22b import signature, wire_pb2
from vit22b.tensors import from_wire

_PREDICT = PREDICTION + "Predict"
_TOO_MANY = 1000  # rows, more than any version takes


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request.

    Attributes:
        name: what it is, for the report.
        path: gRPC's method; empty for REST.
        content: the message; or the whole request of HTTP.
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

    def pinned(self, version: int) -> bytes:
        """The content, with the version asked for."""
        message = predict_pb2.PredictRequest.FromString(self.content)
        message.model_spec.version.value = version
        return message.SerializeToString()

    def other_version(self, content: bytes, version: int | None) -> str:
        """What is wrong where a version was asked for, and another one answers."""
        if version is None:
            return ""
        answered = wire_pb2.PredictResponse.FromString(content).model_spec.version.value
        return "" if answered == version else f"version {version} was asked for, and {answered} answers"


def asks(model: str, goldens: Sequence[Golden]) -> list[Ask]:
    """All of them."""
    found = [_status(model), _metadata(model), *_pages(model)]
    for golden in goldens:
        found.append(_predict(model, golden))
        if golden.inputs:
            found.append(_rest_predict(model, golden))
        if golden.signature == signature.CLASSIFY_EXAMPLES:
            found += _classify(model, golden)
        if golden.signature == signature.EMBED_IMAGE_EACH:
            found.append(_one_bad_image(model, golden))
    return found + _refused(model, goldens)


def slow(model: str, goldens: Sequence[Golden], side: int) -> list[Ask]:
    """Requests that take a while, because their image is large: one over gRPC, one over REST."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG", compress_level=1)
    golden, image = (
        _one(goldens, signature.SERVING_DEFAULT),
        {signature.IMAGE_BYTES: np.array([file.getvalue()], object)},
    )
    return [
        Ask("large image", _PREDICT, golden.request(model, **image).SerializeToString()),
        Ask("REST large image", "", _rest(model, golden.body(**image)), "200"),
    ]


def _refused(model: str, goldens: Sequence[Golden]) -> list[Ask]:
    images, pixels = _one(goldens, signature.SERVING_DEFAULT), _one(goldens, signature.EMBED_PIXELS)
    good = images.inputs[signature.IMAGE_BYTES][0]
    found = []
    for name, content in (("cut image", good[: len(good) // 2]), ("no image", b"no image"), ("empty image", b"")):
        image = {signature.IMAGE_BYTES: np.array([content], object)}
        found.append(Ask(name, _PREDICT, images.request(model, **image).SerializeToString(), "INVALID_ARGUMENT"))
        found.append(Ask(f"REST {name}", "", _rest(model, images.body(**image)), "400"))
    shape = pixels.inputs[signature.PIXELS].shape[1:]
    large = pixels.request(model, **{signature.PIXELS: np.zeros((_TOO_MANY, *shape), np.uint8)})
    unknown = dataclasses.replace(pixels, signature="nope")
    return [
        *found,
        Ask("large batch", _PREDICT, large.SerializeToString(), "INVALID_ARGUMENT"),
        Ask("unknown signature", _PREDICT, unknown.request(model).SerializeToString(), "FAILED_PRECONDITION"),
        Ask("unknown model", _PREDICT, pixels.request("nobody").SerializeToString(), "NOT_FOUND"),
        Ask("REST unknown model", "", _rest("nobody", {"inputs": [1]}), "404"),
        Ask("REST no JSON", "", request("POST", f"/v1/models/{model}:predict", b"{"), "400"),
    ]


def _one(goldens: Sequence[Golden], name: str) -> Golden:
    """The golden request of a signature with one row."""
    return next(golden for golden in goldens if golden.signature == name and golden.rows == 1)


def _answer(content: bytes) -> tuple[int, Arrays]:
    """The version and the outputs of a PredictResponse."""
    response = wire_pb2.PredictResponse.FromString(content)
    return response.model_spec.version.value, {name: from_wire(each) for name, each in response.outputs.items()}


def _predict(model: str, golden: Golden) -> Ask:
    content = golden.request(model).SerializeToString()
    return Ask(golden.name, _PREDICT, content, wrong=lambda content: golden.wrong(*_answer(content)), spec=True)


def _one_bad_image(model: str, golden: Golden) -> Ask:
    """The last image is none, which must not change the others' answers: its own are zeros."""
    images = np.array([*golden.inputs[signature.IMAGE_BYTES][:-1], b"no image"], object)
    content = golden.request(model, **{signature.IMAGE_BYTES: images}).SerializeToString()

    def blank(answers: Arrays) -> Arrays:
        return {name: np.concatenate([value[:-1], np.zeros_like(value[-1:])]) for name, value in answers.items()}

    expected = dataclasses.replace(golden, odd=blank(golden.odd), even=blank(golden.even))
    name = f"{golden.name} with a bad one"
    return Ask(name, _PREDICT, content, wrong=lambda content: expected.wrong(*_answer(content)), spec=True)


def _rest_predict(model: str, golden: Golden) -> Ask:
    def wrong(content: bytes) -> str:
        outputs = json.loads(content)["outputs"]  # of all outputs, if there are several; it does not say its version
        named = outputs if isinstance(outputs, dict) else dict.fromkeys(golden.odd, outputs)
        return golden.wrong_of_either(
            {name: np.asarray(named[name], value.dtype) for name, value in golden.odd.items()}
        )

    return Ask(f"REST {golden.name}", "", _rest(model, golden.body()), "200", wrong)


def _classify(model: str, golden: Golden) -> list[Ask]:
    """The Classify API, over both wires."""
    examples = [tf.train.Example.FromString(value) for value in golden.inputs[signature.EXAMPLES]]
    message = classification_pb2.ClassificationRequest(model_spec=golden.request(model).model_spec)
    message.input.example_list.examples.extend(examples)
    images = [each.features.feature[signature.IMAGE_BYTES].bytes_list.value[0] for each in examples]
    rows = [{signature.IMAGE_BYTES: {"b64": base64.b64encode(image).decode()}} for image in images]

    def scores(values: list[list[float]]) -> Arrays:
        return {signature.SCORES: np.array(values, np.float32)}

    def wrong(content: bytes) -> str:
        response = classification_pb2.ClassificationResponse.FromString(content)
        found = [[each.score for each in row.classes] for row in response.result.classifications]
        return golden.wrong(response.model_spec.version.value, scores(found))

    def rest_wrong(content: bytes) -> str:
        return golden.wrong_of_either(scores([[score for _, score in row] for row in json.loads(content)["results"]]))

    name = f"classify {golden.rows}"
    body = {"signature_name": golden.signature, "examples": rows}
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


def _pages(model: str) -> list[Ask]:
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
