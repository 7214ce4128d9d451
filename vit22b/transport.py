"""The calls to a server: one channel, a deadline on every call, and plain retries.

Between server and client on the walk. It carries messages and knows nothing of their content; vit22b.client says what
to send.
"""

import dataclasses
import random
import time
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from vit22b import errors, wire_pb2

# A message of wire_pb2; generated code has no types.
Request = Any
Answer = TypeVar("Answer")

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

_OPTIONS = (
    # gRPC's own limit is 4 MiB, which a batch of photographs or of token outputs passes. -1 is none, as on the server.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By default a refused connection is not tried again for a second or more, and every retry before that is lost.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


@dataclasses.dataclass(frozen=True)
class Retry:
    """When a call is tried again, and after how long.

    Only what no request can have caused is retried: a server that is away or restarts (UNAVAILABLE), and one that has
    no thread or no place in its queue. The pause is drawn between 0 and a bound that doubles each time, so that clients
    do not return all at once.

    Attributes:
        attempts: calls in all, the first included; 1 means no retry.
        first_pause: bound of the first pause, in seconds.
        longest_pause: bound of every pause, in seconds.
    """

    attempts: int = 5
    first_pause: float = 0.2
    longest_pause: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= 100:
            raise ValueError(f"attempts is {self.attempts}; expected 1 (the call alone) to 100")

    def pause(self, attempt: int, code: grpc.StatusCode, details: str) -> float | None:
        """Seconds to wait after attempt number `attempt` (from 1) has failed, or None to give up."""
        retryable = code is grpc.StatusCode.UNAVAILABLE or errors.is_overload(code, details)
        if not retryable or attempt >= self.attempts:
            return None
        return random.uniform(0, min(self.longest_pause, self.first_pause * 2 ** (attempt - 1)))


class Transport:
    """A channel to one server.

    Args:
        address: host:port, or unix:PATH.
        model: the model that errors are about.
        timeout: seconds that a call may take, its retries included.
        retry: when a call is tried again.

    Raises:
        ValueError: an address of another form, or a timeout that is not positive.
    """

    def __init__(self, address: str, model: str, *, timeout: float, retry: Retry) -> None:
        _check_address(address)
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout}; expected a positive number of seconds")
        self.address, self.model, self.timeout, self.retry = address, model, timeout, retry
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._predict = self._channel.unary_unary(
            PREDICT,
            request_serializer=wire_pb2.PredictRequest.SerializeToString,
            response_deserializer=wire_pb2.PredictResponse.FromString,
        )
        self._status = self._channel.unary_unary(
            STATUS,
            request_serializer=wire_pb2.GetModelStatusRequest.SerializeToString,
            response_deserializer=wire_pb2.GetModelStatusResponse.FromString,
        )

    def predict(self, request: wire_pb2.PredictRequest) -> "Call[wire_pb2.PredictResponse]":
        """Sends a request and does not wait for the answer."""
        return Call(self, self._predict, request)

    def status(self, request: wire_pb2.GetModelStatusRequest) -> "Call[wire_pb2.GetModelStatusResponse]":
        """Sends a question for the states of a model's versions and does not wait for the answer."""
        return Call(self, self._status, request)

    def error(self, kind: type[errors.VitError], message: str, code: str, remedy: str) -> errors.VitError:
        """An exception of this tree about this server and model."""
        return kind(message, code=code, address=self.address, model=self.model, remedy=remedy)

    def close(self) -> None:
        """Closes the channel; calls under way end."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Call(Generic[Answer]):
    """A request under way; made by Transport."""

    def __init__(self, transport: Transport, method: grpc.UnaryUnaryMultiCallable, request: Request) -> None:
        self._transport, self._method, self._request = transport, method, request
        self._deadline = time.monotonic() + transport.timeout
        self._attempt = 1
        self._future = method.future(request, timeout=transport.timeout)

    def result(self) -> Answer:
        """Waits for the answer, and tries again where the Retry says so.

        Raises:
            VitError: the last attempt's error.
        """
        while True:
            try:
                return self._future.result()
            except grpc.RpcError:
                self._again(self._future.code(), self._future.details() or "")

    def cancel(self) -> None:
        """Gives the request up; no effect on one that has been answered."""
        self._future.cancel()

    def _again(self, code: grpc.StatusCode, details: str) -> None:
        transport = self._transport
        pause = transport.retry.pause(self._attempt, code, details)
        left = self._deadline - time.monotonic()
        if pause is None or pause >= left:
            raise errors.from_status(code, details, address=transport.address, model=transport.model)
        time.sleep(pause)
        self._attempt += 1
        self._future = self._method.future(self._request, timeout=left - pause)


def _check_address(address: str) -> None:
    host, colon, port = address.rpartition(":")
    number = port.isdecimal() and 0 < int(port) < 65536
    if address.startswith("unix:") or (host and colon and number and "/" not in host):
        return
    raise ValueError(f"the address is {address!r}; expected host:port, for instance localhost:8500")
