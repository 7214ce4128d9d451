"""The gRPC services: bytes from the wire to answers.py, its answers and errors back to the wire.

The last module of the server on the way SavedModel -> server -> client: method names and statuses are TensorFlow
Serving's.
"""

import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any, NoReturn

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from serving.answers import Answers
from serving.lifecycle import Lifecycle

MAX_MESSAGE_LENGTH = 2**31 - 1
_MAX_DETAILS = 1024
_NO_DEADLINE = 10 * 365 * 24 * 3600.0  # seconds; gRPC gives a time beyond it to a call that has none
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Services(grpc.GenericRpcHandler):
    """PredictionService and ModelService, over one set of models.

    A call beyond the limit of calls at once is refused and not queued, as in TensorFlow Serving.
    """

    def __init__(self, lifecycle: Lifecycle, max_calls: int):
        """Serves what the lifecycle has loaded, to `max_calls` callers at once."""
        self._free = threading.BoundedSemaphore(max_calls)
        answers = Answers(lifecycle)
        # A method that is not here is UNIMPLEMENTED, like those of a service that is not.
        self._methods = {
            "/tensorflow.serving.PredictionService/Predict": self._handler(answers.predict, predict_pb2.PredictRequest),
            "/tensorflow.serving.PredictionService/GetModelMetadata": self._handler(
                _at_once(answers.get_model_metadata), get_model_metadata_pb2.GetModelMetadataRequest
            ),
            "/tensorflow.serving.ModelService/GetModelStatus": self._handler(
                _at_once(answers.get_model_status), get_model_status_pb2.GetModelStatusRequest
            ),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of a method; gRPC asks this service last."""
        unknown = grpc.stream_stream_rpc_method_handler(_unimplemented)
        return self._methods.get(handler_call_details.method, unknown)

    def _handler(self, answer: Callable[[Any, float | None], Message], kind: type[Message]) -> grpc.RpcMethodHandler:
        """A method's handler: takes a slot, parses, answers, and turns an error into a status."""

        def handle(content: bytes, context: grpc.ServicerContext) -> bytes:
            if not self._free.acquire(blocking=False):
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
            try:
                return answer(kind.FromString(content), _timeout(context)).SerializeToString()
            except DecodeError:
                context.abort(grpc.StatusCode.INTERNAL, "")
            except tf.errors.OpError as error:
                _abort(context, error)
            finally:
                self._free.release()

        return grpc.unary_unary_rpc_method_handler(handle)


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


def serve(services: Services, *, address: str, threads: int, health_service: Health | None) -> tuple[grpc.Server, int]:
    """Opens the port and starts to answer.

    Args:
        services: what is served.
        address: host:port; port 0 takes a free one.
        threads: of the server. One more than the calls at once, so that there is always one to refuse with.
        health_service: served too, if given.

    Returns:
        The server and the port that it is bound to.

    Raises:
        OSError: the address cannot be bound, for instance because it is in use.
    """
    server = grpc.server(
        futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_LENGTH),
            ("grpc.max_send_message_length", MAX_MESSAGE_LENGTH),
            ("grpc.so_reuseport", 0),  # a port that another server holds is an error, not shared
        ],
    )
    if health_service is not None:
        health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    server.add_generic_rpc_handlers([services])
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}") from error
    server.start()
    return server, port


def _at_once(answer: Callable[[Any], Message]) -> Callable[[Any, float | None], Message]:
    """A method that takes no time, and so no deadline."""
    return lambda request, _timeout: answer(request)


def _unimplemented(_requests: Any, context: grpc.ServicerContext) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "")


def _timeout(context: grpc.ServicerContext) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None or remaining > _NO_DEADLINE else remaining


def _abort(context: grpc.ServicerContext, error: tf.errors.OpError) -> NoReturn:
    code = _CODES[error.error_code]
    details = "Deadline Exceeded" if code is grpc.StatusCode.DEADLINE_EXCEEDED else error.message
    if len(details) > _MAX_DETAILS:
        details = details[:_MAX_DETAILS] + "...TRUNCATED"
    context.abort(code, details)
