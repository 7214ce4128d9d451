"""The calls to a model's servers: a deadline on every call, retries within a budget, hedges.

Between server and client on the walk. It carries messages and knows nothing of their content; vit22b.client says what
to send.
"""

import dataclasses
import time
from concurrent import futures
from typing import Any, Generic, TypeVar

import grpc

from vit22b import errors, wire_pb2
from vit22b.channel import Addresses, ChannelOptions, open_channel
from vit22b.retry import Budget, Retry
from vit22b.waits import Waits

# A message of wire_pb2; generated code has no types.
Request = Any
Answer = TypeVar("Answer")

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

_HEDGES = 3
_ROUNDS = 4  # past all servers: other requests take turns too, and the same server may come again


@dataclasses.dataclass(frozen=True)
class CallOptions:
    """How a server is asked.

    Attributes:
        timeout: seconds that a call may take, its retries included.
        retry: when a call is tried again.
        hedge_after: seconds without an answer after which a second request is sent, to the next server where there
            are several, and so on, up to three; the first answer counts. None for never.
        api_key: that the server asks for; anybody on the way reads it unless the connection has TLS.
    """

    timeout: float = 60.0
    retry: Retry = dataclasses.field(default_factory=Retry)
    hedge_after: float | None = None
    api_key: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout}; expected a positive number of seconds")
        if self.hedge_after is not None and not self.hedge_after >= 0:
            raise ValueError(f"hedge_after is {self.hedge_after}; expected seconds, or None")


class Transport:
    """Calls to a model.

    Args:
        addresses: of its servers.
        model: the model that errors are about.
        channel: how the servers are reached.
        options: how they are asked.
        waits: where answers are waited for.
    """

    def __init__(
        self, addresses: Addresses, model: str, *, channel: ChannelOptions, options: CallOptions, waits: Waits
    ) -> None:
        self.addresses, self.model, self.options, self.waits = addresses, model, options, waits
        self.budget = Budget(options.retry.budget)
        self.metadata = (("authorization", f"Bearer {options.api_key}"),) if options.api_key else None
        self._channel_options = channel
        self._channel: grpc.Channel | None = None
        self._closed = False
        self.answered = False  # ever, by any server

    def predict(self, request: wire_pb2.PredictRequest) -> "Call[wire_pb2.PredictResponse]":
        """Sends a request and does not wait for the answer."""
        serialise = wire_pb2.PredictRequest.SerializeToString
        return Call(self, self._method(PREDICT, serialise, wire_pb2.PredictResponse.FromString), request)

    def status(self, request: wire_pb2.GetModelStatusRequest) -> "Call[wire_pb2.GetModelStatusResponse]":
        """Sends a question for the states of a model's versions and does not wait for the answer."""
        serialise = wire_pb2.GetModelStatusRequest.SerializeToString
        return Call(self, self._method(STATUS, serialise, wire_pb2.GetModelStatusResponse.FromString), request)

    def error(
        self, kind: type[errors.VitError], message: str, code: str, remedy: str, attempts: int = 1
    ) -> errors.VitError:
        """An exception of this tree about these servers and this model."""
        address = str(self.addresses)
        return kind(message, code=code, address=address, model=self.model, attempts=attempts, remedy=remedy)

    def close(self) -> None:
        """Closes the connections; calls under way end."""
        self._closed = True
        if self._channel is not None:
            self._channel.close()

    def _method(self, path: str, serialise: Any, parse: Any) -> grpc.UnaryUnaryMultiCallable:
        if self._closed:
            raise ValueError("the client is closed; make another one")
        if self._channel is None:
            try:
                self._channel = open_channel(self.addresses, self._channel_options)
            except OSError as error:
                remedy = "give the names and files that there are"
                raise self.error(errors.UnreachableError, str(error), "UNAVAILABLE", remedy) from error
        return self._channel.unary_unary(path, request_serializer=serialise, response_deserializer=parse)


class Call(Generic[Answer]):
    """A request under way; made by Transport."""

    def __init__(self, transport: Transport, method: grpc.UnaryUnaryMultiCallable, request: Request) -> None:
        self._transport, self._method, self._request = transport, method, request
        self._began = self._round_began = time.monotonic()
        self._attempt = 0
        self._sent: dict[grpc.Future, futures.Future[None]] = {}
        self._send()

    async def result(self) -> Answer:
        """Waits for the answer, and tries again where the Retry says so.

        Raises:
            VitError: the last attempt's error.
        """
        try:
            while True:
                failed = await self._first_answer()
                self._transport.answered |= failed.code() is not grpc.StatusCode.UNAVAILABLE
                if failed.code() is grpc.StatusCode.OK:
                    self._transport.budget.earn()
                    return failed.result()
                await self._pause(failed.code(), failed.details() or "")
                self._round_began = time.monotonic()
                self._send()
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Gives the request up; no effect on one that has been answered."""
        for call in self._sent:
            call.cancel()

    async def _first_answer(self) -> Any:
        """The first of the requests to be answered, or the last to fail."""
        waits, hedge_after = self._transport.waits, self._transport.options.hedge_after
        for number in range(1, 1 + _HEDGES if hedge_after is not None else 1):
            due = self._round_began + number * (hedge_after or 0.0)
            await waits.first(self._sent.values(), max(0.0, due - time.monotonic()))
            if any(done.done() for done in self._sent.values()) or not self._transport.budget.spend():
                break
            self._send()
        while True:
            await waits.first(self._sent.values())
            for call in [call for call, done in self._sent.items() if done.done()]:
                if call.code() is grpc.StatusCode.OK or len(self._sent) == 1:
                    return call
                del self._sent[call]

    async def _pause(self, code: grpc.StatusCode, details: str) -> None:
        """Waits until the request may be sent again.

        Raises:
            VitError: it may not.
        """
        transport = self._transport
        self._sent.clear()
        pause = transport.options.retry.pause(self._attempt, code, details, answered=transport.answered)
        # Of several servers one may have the version that another has not yet, or no longer.
        if code is grpc.StatusCode.NOT_FOUND and 1 < len(transport.addresses) > self._attempt / _ROUNDS:
            pause = 0.0
        within = pause is not None and pause < self._left()
        if not within or (errors.is_overload(code, details) and not transport.budget.spend()):
            address, model = str(transport.addresses), transport.model
            raise errors.from_status(code, details, address=address, model=model, attempts=self._attempt)
        await transport.waits.sleep(pause or 0.0)

    def _send(self) -> None:
        self._attempt += 1
        timeout = max(0.0, self._left())
        call = self._method.future(self._request, timeout=timeout, metadata=self._transport.metadata)
        done: futures.Future[None] = futures.Future()
        self._sent[call] = done
        call.add_done_callback(lambda _call: _finish(done))

    def _left(self) -> float:
        return self._transport.options.timeout - (time.monotonic() - self._began)


def _finish(done: "futures.Future[None]") -> None:
    if done.set_running_or_notify_cancel():  # whoever waited in an event loop may have gone
        done.set_result(None)
