"""A stand-in for a served model, to make a client meet what a real server does seldom: refusals, restarts, swaps, bad
answers.

A real gRPC server on a real port, with the real manifest and tokenizer and a model that can be checked by hand: the
vector of an image is its mean colour, and that of a text the colour that it names. What the true model answers is
tested with the true server.
"""

import dataclasses
import io
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from PIL import Image

from tests import manifests
from vit22b import signature, wire_pb2
from vit22b.config import ModelConfig, text_tower, vit
from vit22b.preprocess import Preprocess
from vit22b.prompts import TEMPLATES, find_templates, prompts
from vit22b.signature import Manifest
from vit22b.tensors import from_wire, to_wire
from vit22b.tokenizer import train_tokenizer

_HEALTH = health_pb2.HealthCheckResponse
COLOURS = ("red", "green", "blue")
WIDTH = 8
RESOLUTION = 4
TOKENIZER = train_tokenizer(text for row in prompts(COLOURS, find_templates(TEMPLATES)) for text in row)


def picture(colour: str, size: int = 6, kind: str = "PNG") -> bytes:
    """An image file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour if colour != "green" else "lime").save(file, kind)
    return file.getvalue()


def manifest(space_id: str, batch_sizes: tuple[int, ...], text: bool, without: tuple[str, ...]) -> Manifest:
    """The manifest of the stand-in."""
    image = vit("mu", width=WIDTH, heads=2, resolution=RESOLUTION)
    config = ModelConfig(image=image, text=text_tower(image, TOKENIZER.vocabulary) if text else None)
    preprocess = Preprocess(resolution=RESOLUTION)
    names = tuple(name for name in signature.signatures(config, preprocess) if name not in without)
    return manifests.manifest(
        config, space_id=space_id, preprocess=preprocess, labels=(), signatures=names, batch_sizes=batch_sizes
    )


@dataclasses.dataclass
class StandIn:
    """What is served, what goes wrong next, and what was asked.

    `refusals` are given first, one for each request; `requests` holds every request that was answered.
    """

    model: str = "vit22b"
    version: int = 1
    space_id: str = "space-one"
    batch_sizes: tuple[int, ...] = (1, 2, 4)
    text: bool = True
    without: tuple[str, ...] = ()
    delay: float = 0.0
    key: str | None = None
    serving: bool | None = None  # what its health service says; None has none
    echoed_version: int | None = None
    unloads_after: int | None = None
    refusals: list[tuple[grpc.StatusCode, str]] = dataclasses.field(default_factory=list)
    requests: list[wire_pb2.PredictRequest] = dataclasses.field(default_factory=list)
    address: str = ""
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def predict(self, request: wire_pb2.PredictRequest, context: grpc.ServicerContext) -> wire_pb2.PredictResponse:
        with self.lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            refusal = self.refusals.pop(0) if self.refusals else self._refusal(request.model_spec)
            version = self.version  # of this request, whatever is swapped in while it runs
        time.sleep(self.delay)
        with self.lock:
            self.under_way -= 1
            self.requests.append(request)
        if self.key and ("authorization", f"Bearer {self.key}") not in context.invocation_metadata():
            refusal = (grpc.StatusCode.UNAUTHENTICATED, "This server needs an API key")
        if refusal:
            context.abort(*refusal)
        outputs = self._outputs(request, context)
        answer = wire_pb2.PredictResponse(outputs=outputs, model_spec=request.model_spec)
        answer.model_spec.version.value = version if self.echoed_version is None else self.echoed_version
        return answer

    def status(self, request: wire_pb2.GetModelStatusRequest, context: grpc.ServicerContext):
        refusal = self._refusal(request.model_spec)
        if refusal:
            context.abort(*refusal)
        states = [wire_pb2.ModelVersionStatus(version=self.version, state="AVAILABLE")]
        if self.version > 1:
            failed = wire_pb2.StatusProto(error_code=5, error_message="no such file")
            states.append(wire_pb2.ModelVersionStatus(version=1, state="END", status=failed))
        return wire_pb2.GetModelStatusResponse(model_version_status=states)

    def asked(self, name: str) -> list[wire_pb2.PredictRequest]:
        """The requests for a signature so far."""
        return [request for request in self.requests if request.model_spec.signature_name == name]

    def swap(self, version: int, space_id: str) -> None:
        """Another version takes the place of the one served."""
        self.version, self.space_id = version, space_id

    def _refusal(self, spec: wire_pb2.ModelSpec) -> tuple[grpc.StatusCode, str] | None:
        if self.unloads_after is not None and len(self.requests) >= self.unloads_after:
            self.unloads_after = None
            self.swap(self.version + 1, "space-two")
        asked = spec.version.value if spec.HasField("version") else self.version
        if spec.name == self.model and asked == self.version:
            return None
        return grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Specific({spec.name}, {asked})"

    def _outputs(self, request: wire_pb2.PredictRequest, context: grpc.ServicerContext):
        name = request.model_spec.signature_name
        if name in self.without:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        if name == signature.DESCRIBE:
            described = manifest(self.space_id, self.batch_sizes, self.text, self.without).to_json().encode()
            tokenizer = TOKENIZER.to_json().encode() if self.text else b""
            texts = {signature.MANIFEST: described, signature.TOKENIZER: tokenizer}
            return {alias: wire_pb2.TensorProto(dtype=7, string_val=[text]) for alias, text in texts.items()}
        rows = from_wire(next(iter(request.inputs.values())))
        if len(rows) > self.batch_sizes[-1]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Task size {len(rows)} is larger than the maximum")
        run = {
            signature.EMBED_TEXT: self._texts,
            signature.EMBED_PIXELS: lambda rows: rows.mean(axis=(1, 2)),
            signature.FEATURES: lambda rows: rows.mean(axis=(1, 2)),
        }.get(name, self._images)
        vectors, ok = np.zeros((len(rows), WIDTH), np.float32), np.ones(len(rows), bool)
        vectors[:, :3] = run(rows)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        ok = lengths[:, 0] > 0
        vectors /= np.maximum(lengths, 1e-9)
        if name == signature.FEATURES:
            return {signature.POOLED: packed(vectors), signature.TOKENS: packed(vectors[:, None])}
        if name == signature.FEATURES_EACH:
            every = packed(vectors[:, None])
            answers = {signature.POOLED: packed(vectors), signature.TOKENS: every, signature.OK: packed(ok)}
            return {alias: answers[alias] for alias in request.output_filter}
        if name == signature.EMBED_IMAGE_EACH:
            return {signature.EMBEDDING: packed(vectors), signature.OK: packed(ok)}
        if not ok.all():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"rows {np.flatnonzero(~ok).tolist()} are no images")
        return {signature.EMBEDDING: to_wire(vectors)}

    def _texts(self, ids: np.ndarray) -> np.ndarray:
        words = {colour: TOKENIZER.encode([f"a {colour}"])[0, 1] for colour in COLOURS}
        return np.stack([[float(words[colour] in row) for colour in COLOURS] for row in ids])

    def _images(self, rows: np.ndarray) -> np.ndarray:
        found = np.zeros((len(rows), 3))
        for place, encoded in enumerate(rows):
            try:
                with Image.open(io.BytesIO(encoded)) as image:
                    found[place] = np.asarray(image.convert("RGB"), np.float64).mean(axis=(0, 1))
            except OSError:
                continue
        return found


def packed(values: np.ndarray) -> wire_pb2.TensorProto:
    """A tensor as TensorFlow Serving answers by default: in the field of its type, not as tensor_content."""
    tensor = to_wire(values)
    field = "float_val" if values.dtype == np.float32 else "bool_val"
    setattr(tensor, field, tensor.tensor_content)
    tensor.ClearField("tensor_content")
    return tensor


@contextmanager
def serve(
    standin: StandIn, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> Iterator[StandIn]:
    """Serves on a port of this machine, by default a free one, until the end of the block."""
    methods = {
        "PredictionService": ("Predict", standin.predict, wire_pb2.PredictRequest, wire_pb2.PredictResponse),
        "ModelService": (
            "GetModelStatus",
            standin.status,
            wire_pb2.GetModelStatusRequest,
            wire_pb2.GetModelStatusResponse,
        ),
    }
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=limits)
    for service, (method, function, request, answer) in methods.items():
        handler = grpc.unary_unary_rpc_method_handler(
            function, request_deserializer=request.FromString, response_serializer=answer.SerializeToString
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", {method: handler}),)
        )
    if standin.serving is not None:
        checked = health.HealthServicer()
        checked.set("", _HEALTH.SERVING if standin.serving else _HEALTH.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checked, server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    standin.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield standin
    finally:
        server.stop(None).wait()


def closed_address() -> str:
    """An address of this machine where nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"
