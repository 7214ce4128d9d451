"""The REST API apart from HTTP: a method, a path, headers and a body in, a status and a body out.

Between rest_server.py, which brings requests in, and answers.py on the way client -> server -> SavedModel. Statuses and
texts are TensorFlow Serving's.
"""

import contextlib
import dataclasses
import logging
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

from serving import rest_body, rest_examples, rest_paths, rest_predict
from serving.answers import Answers
from serving.call import Call, Reason, cut
from serving.desk import Desk
from serving.json_tokens import encode
from serving.prediction import Asked
from serving.rest_paths import Route
from serving.rest_reply import Reply, failure
from serving.servable import Servable
from serving.status import defect, invalid

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Request:
    """A request of HTTP below /v1/, apart from its body.

    Attributes:
        method: in capitals.
        path: as it was sent, query and all.
        headers: by lower-case name.
        peer: the caller's address.
        gone: whether the caller has gone already.
    """

    method: str
    path: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    peer: str = ""
    gone: Callable[[], bool] = lambda: False


class RestApi:
    """The API over one set of models.

    A request is admitted when its head is there, and answered when its body is there and a thread is free for it.
    """

    def __init__(self, answers: Answers, desk: Desk, timeout: float | None, max_body_bytes: int = 0):
        """Answers through the desk.

        Args:
            answers: of the models.
            desk: that lets requests in and keeps account of them.
            timeout: seconds that a request may take once its body is there.
            max_body_bytes: of a body once it is inflated; 0 for as many as there are.
        """
        self._answers = answers
        self._desk = desk
        self._timeout = timeout
        self._max_body_bytes = max_body_bytes
        self._methods: dict[str, Callable[[Route, bytes, Call], bytes]] = {
            "Predict": self._predict,
            "Classify": self._classify,
            "Regress": self._regress,
            "GetModelStatus": self._status,
            "GetModelMetadata": self._metadata,
        }

    def admit(self, request: Request) -> "Admitted | Reply":
        """Lets a request in, or refuses it, with the reply that says why."""
        route = rest_paths.parse(request.method, request.path)
        call = Call(
            api=route.api,
            entrypoint="REST",
            id=request.headers.get("x-request-id") or uuid.uuid4().hex,
            peer=request.peer,
            metadata=request.headers,
            gone=request.gone,
            model=route.model,
        )
        try:
            self._desk.admit(call)
        except tf.errors.OpError as error:
            return failure(error)
        return Admitted(self._desk, call, route, self._timeout, self._answer)

    def _answer(self, route: Route, body: bytes, call: Call) -> bytes:
        if route.error is not None:
            raise invalid(route.error)
        call.check()
        try:
            body = rest_body.inflate(body, call.metadata.get("content-encoding", ""), self._max_body_bytes)
        except rest_body.TooLargeError:
            call.refused = "size"
            raise
        return self._methods[route.api](route, body, call)

    def _predict(self, route: Route, body: bytes, call: Call) -> bytes:
        spec = route.spec
        servable: Servable
        with contextlib.ExitStack() as lease:  # the version that says what the inputs are is the one that answers

            def inputs_of(signature: str) -> rest_predict.Inputs:
                nonlocal servable
                spec.signature_name = signature
                servable = lease.enter_context(self._answers.servable(spec, call))
                return servable.inputs(signature)

            with call.spend("decode"):
                request = rest_predict.parse(body, inputs_of)
            answered = servable.answer(Asked(spec, request.inputs), call)
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


class Admitted:
    """A request that has been let in: it has a place until it is answered, refused or dropped.

    Attributes:
        call: the request, without its body.
        is_work: whether its answer takes a model's time.
    """

    def __init__(
        self,
        desk: Desk,
        call: Call,
        route: Route,
        timeout: float | None,
        answer: Callable[[Route, bytes, Call], bytes],
    ):
        self.call = call
        self.is_work = route.is_work
        self._desk = desk
        self._route = route
        self._timeout = timeout
        self._answer = answer

    def begin(self) -> None:
        """The body is there: from now on its time counts."""
        self.call.add("receive", time.perf_counter() - (self.call.admitted or self.call.began))
        if self._timeout is not None:
            self.call.deadline = time.monotonic() + self._timeout

    def answer(self, body: bytes) -> Reply:
        """Answers it; `body` is as it was sent."""
        try:
            return Reply(200, self._desk.serve(self.call, lambda: self._answer(self._route, body, self.call)))
        except tf.errors.OpError as error:
            return Reply(400, b"") if self._route.error == "" else failure(error)
        except Exception:  # whatever is wrong with the server, its insides are not the caller's to see
            logger.exception("%s failed, request id %s", self.call.api, cut(self.call.id))
            return failure(defect())

    def refuse(self, error: tf.errors.OpError, reason: Reason) -> Reply:
        """Refuses it, by an error that its caller gets."""
        self._desk.refuse(self.call, error, reason)
        return failure(error)

    def drop(self) -> None:
        """Gives it up: its caller has gone."""
        self._desk.drop(self.call)


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
