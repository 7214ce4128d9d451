"""The gRPC services: bytes from the wire to answers.py, its answers and errors back to the wire.

Between grpc_server.py, which has the connections, and desk.py on the way SavedModel -> server -> client. Method names
and statuses are TensorFlow Serving's.
"""

import contextlib
import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError, Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    regression_pb2,
)

from serving import multi_inference, predict_wire
from serving.answers import Answers
from serving.call import Call, Reason, cut
from serving.desk import Desk
from serving.slots import Slots
from serving.status import LATE, cancelled, defect, exhausted, going_down, internal
from serving.uploads import Uploads

Reload = Callable[[model_management_pb2.ReloadConfigRequest, Call], model_management_pb2.ReloadConfigResponse]

_MAX_DETAILS = 1024
_NO_DEADLINE = 10 * 365 * 24 * 3600.0  # seconds; gRPC gives a time beyond it to a call that has none
_ID = "x-request-id"
_CODES = {code.value[0]: code for code in grpc.StatusCode}

# Calls whose request is on its way. They take a thread each, and no slot. What has come of their requests is in memory,
# up to --max_message_bytes of each, which are 2 GiB unless it is set.
_UPLOADS = 64
_PATIENCE = 10.0  # seconds, see uploads.py
_TELL = 0.5  # seconds

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Method:
    """A method of the API: how its bytes are read, which spec they name, and what answers them."""

    api: str
    parse: Callable[[bytes], Any]
    answer: Callable[[Any, Call], Message | bytes]
    model: Callable[[Any], str] = lambda request: request.model_spec.name


class Services(grpc.GenericRpcHandler):
    """PredictionService and ModelService, over one set of models.

    A call beyond the limit of calls at once is refused and not queued, as in TensorFlow Serving. It is refused, too,
    without its key and by a full desk, before its request is read.

    Attributes:
        slots: of the calls that are answered.
        threads: that may wait for requests or answer them.
    """

    def __init__(
        self, answers: Answers, desk: Desk, max_calls: int, reload: Reload | None = None, *, admin: bool = False
    ):
        """Takes calls in.

        Args:
            answers: to the methods.
            desk: that every call passes.
            max_calls: that are answered at once; a call counts until its answer has left.
            reload: what HandleReloadConfigRequest does; the method is UNIMPLEMENTED without it.
            admin: whether the port is the administrators'.
        """
        self._admin = admin
        self.slots = Slots(max_calls)
        self._uploads = Uploads(_UPLOADS, _PATIENCE)
        self._desk = desk
        self.threads = max_calls + self._uploads.places
        # A method that is not here is UNIMPLEMENTED, like those of a service that is not.
        self._methods = {path: self._handler(method) for path, method in _methods(answers, reload).items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of a method; gRPC asks this service last."""
        unknown = grpc.stream_stream_rpc_method_handler(_unimplemented)
        return self._methods.get(handler_call_details.method, unknown)

    def _handler(self, method: _Method) -> grpc.RpcMethodHandler:
        """A method's handler, which turns an error into a status.

        A stream to gRPC, which on the wire is the same: so it is the handler that waits for the one request, and what
        speaks against the call comes first.
        """

        def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            call = _call(method.api, context, admin=self._admin)
            try:
                return self._answer(method, call, requests, context)
            except tf.errors.OpError as error:
                failure = error
            except Exception:  # whatever is wrong with the server, its insides are not the caller's to see
                logger.exception("%s failed, request id %s", method.api, cut(call.id))
                failure = defect()
            _abort(context, failure)

        return grpc.stream_unary_rpc_method_handler(handle)

    def _answer(self, method: _Method, call: Call, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        if not self.slots.enter(context):
            raise self._refused(call, going_down(), "drain")
        if not self.slots.free:
            raise self._refused(call, exhausted(), "threads")
        self._desk.admit(call)
        content = self._receive(call, requests, context)
        if not self.slots.take():  # those that were free have been taken meanwhile
            raise self._refused(call, exhausted(), "threads")
        try:
            return self._desk.serve(call, lambda: _work(method, content, call))
        finally:
            self.slots.give_back(context)

    def _receive(self, call: Call, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """The call's one request."""
        with call.spend("receive"), self._uploads.place(context) as taken:
            if not taken:
                raise self._refused(call, exhausted(), "uploads")
            with contextlib.suppress(grpc.RpcError):  # the caller has gone
                for content in requests:
                    return content
            if _has_ended(context):
                self._desk.drop(call)
                raise cancelled()
            raise self._refused(call, internal(""), "form")

    def _refused(self, call: Call, error: tf.errors.OpError, reason: Reason) -> tf.errors.OpError:
        self._desk.refuse(call, error, reason)
        return error


def _work(method: _Method, content: bytes, call: Call) -> bytes:
    try:
        with call.spend("decode"):
            request = method.parse(content)
    except DecodeError as error:
        call.refused = "form"
        raise internal("") from error
    call.model = method.model(request)
    response = method.answer(request, call)
    if isinstance(response, bytes):
        return response
    with call.spend("encode"):
        return response.SerializeToString()


def _methods(answers: Answers, reload: Reload | None) -> dict[str, _Method]:
    """The methods by their path."""
    prediction, model = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
    methods = {
        prediction: [
            _Method("Predict", predict_wire.parse, answers.predict, lambda asked: asked.spec.name),
            _Method("Classify", classification_pb2.ClassificationRequest.FromString, answers.classify),
            _Method("Regress", regression_pb2.RegressionRequest.FromString, answers.regress),
            _Method(
                "MultiInference",
                inference_pb2.MultiInferenceRequest.FromString,
                answers.multi_inference,
                lambda request: multi_inference.spec(request).name,
            ),
            _Method(
                "GetModelMetadata",
                get_model_metadata_pb2.GetModelMetadataRequest.FromString,
                answers.get_model_metadata,
            ),
        ],
        model: [
            _Method("GetModelStatus", get_model_status_pb2.GetModelStatusRequest.FromString, answers.get_model_status),
        ],
    }
    if reload is not None:
        methods[model].append(
            _Method(
                "HandleReloadConfigRequest",
                model_management_pb2.ReloadConfigRequest.FromString,
                reload,
                lambda _request: "",
            )
        )
    return {service + method.api: method for service, of in methods.items() for method in of}


def _has_ended(context: grpc.ServicerContext) -> bool:
    """Whether a call without a request has: gRPC may tell that nothing more comes before it tells why."""
    end = time.monotonic() + _TELL
    while context.is_active() and time.monotonic() < end:
        time.sleep(0.01)
    return not context.is_active()


def _unimplemented(_requests: Any, context: grpc.ServicerContext) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "")


def _call(api: str, context: grpc.ServicerContext, *, admin: bool) -> Call:
    """What gRPC knows of a call."""
    metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    remaining = context.time_remaining()
    forever = remaining is None or remaining > _NO_DEADLINE
    return Call(
        api,
        "GRPC",
        id=metadata.get(_ID) or uuid.uuid4().hex,
        peer=context.peer(),
        metadata=metadata,
        deadline=None if forever else time.monotonic() + remaining,
        gone=lambda: not context.is_active(),
        admin=admin,
    )


def _abort(context: grpc.ServicerContext, error: tf.errors.OpError) -> NoReturn:
    code = _CODES[error.error_code]
    details = LATE if code is grpc.StatusCode.DEADLINE_EXCEEDED else error.message
    if len(details) > _MAX_DETAILS:
        details = details[:_MAX_DETAILS] + "...TRUNCATED"
    context.abort(code, details)
