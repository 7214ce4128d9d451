"""The gRPC services: bytes from the wire to answers.py, its answers and errors back to the wire.

The last module of the server on the way SavedModel -> server -> client: method names and statuses are TensorFlow
Serving's.
"""

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent import futures
from types import MappingProxyType
from typing import Any, NoReturn

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
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
from serving.call import Call
from serving.desk import Desk

Reload = Callable[[model_management_pb2.ReloadConfigRequest], model_management_pb2.ReloadConfigResponse]

MAX_MESSAGE_LENGTH = 2**31 - 1
_MAX_DETAILS = 1024
_NO_DEADLINE = 10 * 365 * 24 * 3600.0  # seconds; gRPC gives a time beyond it to a call that has none
_ID = "x-request-id"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclasses.dataclass(frozen=True)
class _Method:
    """A method of the API: how its bytes are read, which spec they name, and what answers them."""

    api: str
    parse: Callable[[bytes], Any]
    answer: Callable[[Any, Call], Message | bytes]
    model: Callable[[Any], str] = lambda request: request.model_spec.name


class Services(grpc.GenericRpcHandler):
    """PredictionService and ModelService, over one set of models.

    A call beyond the limit of calls at once is refused and not queued, as in TensorFlow Serving.
    """

    def __init__(
        self, answers: Answers, desk: Desk, max_calls: int, reload: Reload | None = None, *, admin: bool = False
    ):
        """Takes calls in.

        Args:
            answers: to the methods.
            desk: that every call passes.
            max_calls: at once.
            reload: what HandleReloadConfigRequest does; the method is UNIMPLEMENTED without it.
            admin: whether the port is the administrators'.
        """
        self._admin = admin
        self._free = threading.BoundedSemaphore(max_calls)
        self._desk = desk
        # A method that is not here is UNIMPLEMENTED, like those of a service that is not.
        self._methods = {path: self._handler(method) for path, method in _methods(answers, reload).items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of a method; gRPC asks this service last."""
        unknown = grpc.stream_stream_rpc_method_handler(_unimplemented)
        return self._methods.get(handler_call_details.method, unknown)

    def _handler(self, method: _Method) -> grpc.RpcMethodHandler:
        """A method's handler: takes a slot, parses, answers, and turns an error into a status."""

        def handle(content: bytes, context: grpc.ServicerContext) -> bytes:
            if not self._free.acquire(blocking=False):
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
            try:
                return self._answer(method, content, context)
            except DecodeError:
                context.abort(grpc.StatusCode.INTERNAL, "")
            except tf.errors.OpError as error:
                _abort(context, error)
            finally:
                self._free.release()

        return grpc.unary_unary_rpc_method_handler(handle)

    def _answer(self, method: _Method, content: bytes, context: grpc.ServicerContext) -> bytes:
        call = _call(method.api, context)
        call.admin = self._admin
        with call.spend("decode"):
            request = method.parse(content)
        call.model = method.model(request)

        def answer() -> bytes:
            response = method.answer(request, call)
            if isinstance(response, bytes):
                return response
            with call.spend("encode"):
                return response.SerializeToString()

        return self._desk.serve(call, answer)


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
                lambda request, _call: reload(request),
                lambda _request: "",
            )
        )
    return {service + method.api: method for service, of in methods.items() for method in of}


class Health(health.HealthServicer):
    """grpc.health.v1, for the server as a whole: it says nothing about models."""

    def __init__(self) -> None:
        super().__init__()
        self._watchers: set[Callable[[Any], None]] = set()
        for name in ("ModelService", "PredictionService"):
            self.set(name, health_pb2.HealthCheckResponse.SERVING)

    def Check(  # noqa: N802 - the name is gRPC's
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        response = super().Check(request, context)
        if context.code() == grpc.StatusCode.NOT_FOUND:
            context.set_details("service name unknown")
        return response

    def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: Callable[[Any], None],
    ) -> None:
        self._watchers.add(send_response_callback)
        context.add_callback(lambda: self._watchers.discard(send_response_callback))
        super().Watch(request, context, send_response_callback)

    def end(self) -> None:
        """Says NOT_SERVING from now on, and ends the watches, which would hold up the server's stop."""
        self.enter_graceful_shutdown()
        for send in list(self._watchers):
            send(None)


def serve(
    services: Services,
    *,
    address: str,
    threads: int,
    health_service: Health | None,
    credentials: grpc.ServerCredentials | None = None,
    arguments: Mapping[str, int | str] = MappingProxyType({}),
) -> tuple[grpc.Server, int]:
    """Opens a port, or a UNIX socket, and starts to answer.

    Args:
        services: what is served.
        address: host:port or unix:path, or several with commas; port 0 takes a free one.
        threads: of the server. One more than the calls at once, so that there is always one to refuse with.
        health_service: served too, if given.
        credentials: for TLS; without it the port is plain.
        arguments: of gRPC's channels, besides those that are set here.

    Returns:
        The server and the port that it is bound to; of several addresses the first one's.

    Raises:
        OSError: an address cannot be bound, for instance because it is in use.
    """
    options: dict[str, int | str] = {
        "grpc.max_receive_message_length": MAX_MESSAGE_LENGTH,
        "grpc.max_send_message_length": MAX_MESSAGE_LENGTH,
        "grpc.so_reuseport": 0,  # a port that another server holds is an error, not shared
    }
    server = grpc.server(
        futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc"), options=list({**options, **arguments}.items())
    )
    if health_service is not None:
        health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    server.add_generic_rpc_handlers([services])
    try:
        ports = [
            server.add_secure_port(one, credentials) if credentials else server.add_insecure_port(one)
            for one in address.split(",")
        ]
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}") from error
    server.start()
    return server, ports[0]


def _unimplemented(_requests: Any, context: grpc.ServicerContext) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "")


def _call(api: str, context: grpc.ServicerContext) -> Call:
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
    )


def _abort(context: grpc.ServicerContext, error: tf.errors.OpError) -> NoReturn:
    code = _CODES[error.error_code]
    details = "Deadline Exceeded" if code is grpc.StatusCode.DEADLINE_EXCEEDED else error.message
    if len(details) > _MAX_DETAILS:
        details = details[:_MAX_DETAILS] + "...TRUNCATED"
    context.abort(code, details)
