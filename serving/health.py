"""The gRPC service grpc.health.v1.Health, for the server as a whole: it says nothing about models.

Beside services.py on the way SavedModel -> server -> client. It is answered when every place for other calls is taken,
and by callers that send no request it cannot be blocked for long.
"""

import threading
from collections.abc import Callable, Iterator

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from serving.status import THREADS
from serving.uploads import Uploads

Response = health_pb2.HealthCheckResponse
Send = Callable[[Response | None], None]

_SERVICES = frozenset({"", "ModelService", "PredictionService"})  # TensorFlow Serving's
_PLACES = 8  # threads; a request is some bytes, and comes with its headers
_PATIENCE = 1.0  # seconds


class Health(grpc.GenericRpcHandler):
    """SERVING until `end`."""

    def __init__(self) -> None:
        self._uploads = Uploads(_PLACES, _PATIENCE)
        self._lock = threading.Lock()
        self._status = Response.SERVING
        self._watchers: dict[Send, bool] = {}  # whether what each one watches is known

        def watch(requests: Iterator[bytes], context: grpc.ServicerContext, send: Send) -> None:
            self._watch(requests, context, send)

        watch.experimental_non_blocking = True  # type: ignore[attr-defined]  # gRPC's: a watch holds no thread
        serialize = Response.SerializeToString
        # Both are streams to gRPC, so that the handler itself waits for the one request.
        self._methods = {
            "/grpc.health.v1.Health/Check": grpc.stream_unary_rpc_method_handler(
                self._check, response_serializer=serialize
            ),
            "/grpc.health.v1.Health/Watch": grpc.stream_stream_rpc_method_handler(watch, response_serializer=serialize),
        }

    @property
    def threads(self) -> int:
        """That may wait for requests."""
        return self._uploads.places

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The handler of a method; None for one of another service."""
        return self._methods.get(handler_call_details.method)

    def end(self) -> None:
        """Says NOT_SERVING from now on, and ends the watches, which would hold up the server's stop."""
        with self._lock:
            self._status = Response.NOT_SERVING
            watchers, self._watchers = self._watchers, {}
        for send, known in watchers.items():
            _end(send, known)

    def _check(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Response:
        with self._uploads.place(context) as taken:
            name = self._name(requests, context, taken)
        if name not in _SERVICES:
            context.abort(grpc.StatusCode.NOT_FOUND, "service name unknown")
        return Response(status=self._status)

    def _watch(self, requests: Iterator[bytes], context: grpc.ServicerContext, send: Send) -> None:
        # The place is kept while the status is sent: a caller that takes no bytes holds up the thread that sends.
        with self._uploads.place(context) as taken:
            name = self._name(requests, context, taken)
            known, status = name in _SERVICES, self._status
            send(Response(status=status if known else Response.SERVICE_UNKNOWN))
        with self._lock:
            ended = self._status == Response.NOT_SERVING
            if not ended:
                self._watchers[send] = known
        if ended:
            _end(send, known and status == Response.SERVING)
        elif not context.add_callback(lambda: self._forget(send)):  # the call has ended meanwhile
            self._forget(send)

    def _forget(self, send: Send) -> None:
        with self._lock:
            self._watchers.pop(send, None)

    def _name(self, requests: Iterator[bytes], context: grpc.ServicerContext, taken: bool) -> str:
        """Which service is asked for."""
        if not taken:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, THREADS)
        content = next(requests, None)
        if content is None:
            context.abort(grpc.StatusCode.INTERNAL, "")
        try:
            return health_pb2.HealthCheckRequest.FromString(content).service
        except DecodeError:
            context.abort(grpc.StatusCode.INTERNAL, "")


def _end(send: Send, known: bool) -> None:
    """Ends a watch, if it is of a known service with the news."""
    if known:
        send(Response(status=Response.NOT_SERVING))
    send(None)
