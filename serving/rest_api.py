"""The REST API apart from HTTP: a method, a path and a body in, a status and a body out.

Between rest_server.py, which brings requests in, and answers.py on the way client -> server -> SavedModel. Statuses and
texts are TensorFlow Serving's.
"""

import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping

import tensorflow as tf
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    regression_pb2,
)

from serving import json_writer, rest_body, rest_examples, rest_paths, rest_predict
from serving.answers import Answers
from serving.call import Call
from serving.desk import Desk
from serving.json_tokens import encode
from serving.prediction import Asked
from serving.rest_paths import Route

_STATUSES = {
    tf.errors.CANCELLED: 499,
    tf.errors.UNKNOWN: 500,
    tf.errors.INVALID_ARGUMENT: 400,
    tf.errors.DEADLINE_EXCEEDED: 504,
    tf.errors.NOT_FOUND: 404,
    tf.errors.ALREADY_EXISTS: 409,
    tf.errors.PERMISSION_DENIED: 403,
    tf.errors.RESOURCE_EXHAUSTED: 429,
    tf.errors.FAILED_PRECONDITION: 400,
    tf.errors.ABORTED: 409,
    tf.errors.OUT_OF_RANGE: 400,
    tf.errors.UNIMPLEMENTED: 501,
    tf.errors.INTERNAL: 500,
    tf.errors.UNAVAILABLE: 503,
    tf.errors.DATA_LOSS: 500,
    tf.errors.UNAUTHENTICATED: 401,
}
_TIMED_OUT = "Timed out waiting for notification"


@dataclasses.dataclass(frozen=True)
class Request:
    """A request of HTTP below /v1/.

    Attributes:
        method: in capitals.
        path: as it was sent, query and all.
        headers: by lower-case name.
        body: whole, as it was sent.
        peer: the caller's address.
        gone: whether the caller has gone already.
    """

    method: str
    path: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    peer: str = ""
    gone: Callable[[], bool] = lambda: False


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer of HTTP: its status, its body, and headers besides those of every answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class RestApi:
    """The API over one set of models. A request is admitted at once, and answered when a thread is free for it."""

    def __init__(self, answers: Answers, desk: Desk, timeout: float | None):
        """Answers through the desk, each request within `timeout` seconds of its arrival."""
        self._answers = answers
        self._desk = desk
        self._timeout = timeout
        self._methods: dict[str, Callable[[Route, bytes, Call], bytes]] = {
            "Predict": self._predict,
            "Classify": self._classify,
            "Regress": self._regress,
            "GetModelStatus": self._status,
            "GetModelMetadata": self._metadata,
        }

    def admit(self, request: Request) -> Callable[[], Reply] | Reply:
        """Lets a request in; the function that is returned answers it.

        Or refuses it, with the reply that says why.
        """
        route = rest_paths.parse(request.method, request.path)
        call = self._call(route, request)
        try:
            self._desk.admit(call)
        except tf.errors.OpError as error:
            return _failed(error)

        def answer() -> Reply:
            try:
                return Reply(200, self._desk.serve(call, lambda: self._answer(route, request, call)))
            except tf.errors.OpError as error:
                return Reply(400, b"") if route.error == "" else _failed(error)

        return answer

    def _call(self, route: Route, request: Request) -> Call:
        return Call(
            api=route.api,
            entrypoint="REST",
            id=request.headers.get("x-request-id") or uuid.uuid4().hex,
            peer=request.peer,
            metadata=request.headers,
            deadline=None if self._timeout is None else time.monotonic() + self._timeout,
            gone=request.gone,
            model=route.model,
            version=route.version,
        )

    def _answer(self, route: Route, request: Request, call: Call) -> bytes:
        if route.error is not None:
            raise tf.errors.InvalidArgumentError(None, None, route.error)
        call.check()
        body = rest_body.inflate(request.body, request.headers.get("content-encoding", ""))
        return self._methods[route.api](route, body, call)

    def _predict(self, route: Route, body: bytes, call: Call) -> bytes:
        spec = route.spec

        def inputs_of(signature: str) -> rest_predict.Inputs:
            spec.signature_name = signature
            return self._answers.inputs(spec, call)

        with call.spend("decode"):
            request = rest_predict.parse(body, inputs_of)
        answered = self._answers.answer(Asked(spec, request.inputs), call)
        with call.spend("encode"):
            return rest_predict.write(answered.outputs, by_row=request.by_row)

    def _classify(self, route: Route, body: bytes, call: Call) -> bytes:
        request = classification_pb2.ClassificationRequest(model_spec=route.spec)
        with call.spend("decode"):
            rest_examples.parse(body, request)
        response = self._answers.classify(request, call)
        with call.spend("encode"):
            return rest_examples.write_classifications(response.result)

    def _regress(self, route: Route, body: bytes, call: Call) -> bytes:
        request = regression_pb2.RegressionRequest(model_spec=route.spec)
        with call.spend("decode"):
            rest_examples.parse(body, request)
        response = self._answers.regress(request, call)
        with call.spend("encode"):
            return rest_examples.write_regressions(response.result)

    def _status(self, route: Route, _body: bytes, call: Call) -> bytes:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=route.spec)
        return encode(_json(self._answers.get_model_status(request, call)))

    def _metadata(self, route: Route, _body: bytes, call: Call) -> bytes:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=route.spec, metadata_field=["signature_def"]
        )
        response = self._answers.get_model_metadata(request, call)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        spec, definitions = (_json(part, keep_names=True) for part in (response.model_spec, signatures))
        return encode(f'{{\n"model_spec":{spec},\n"metadata": {{"signature_def": {definitions}}}\n}}\n')


def _failed(error: tf.errors.OpError) -> Reply:
    text = _TIMED_OUT if error.error_code == tf.errors.DEADLINE_EXCEEDED else error.message
    headers = {"Retry-After": "1"} if error.error_code == tf.errors.RESOURCE_EXHAUSTED else {}
    return Reply(_STATUSES.get(error.error_code, 500), json_writer.error(text), headers)


def _json(message: Message, *, keep_names: bool = False) -> str:
    """A message as protobuf's C++ prints it: an indent of one space, and no bare angle brackets."""
    text = json_format.MessageToJson(
        message,
        indent=1,
        ensure_ascii=False,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=keep_names,
    )
    return text.replace("<", "\\u003c").replace(">", "\\u003e") + "\n"
