"""The calls to a model's servers: a deadline on every call, retries within a budget, hedges.

Between server and client on the walk. It carries messages and knows nothing of their content; vit22b.client says what
to send.
"""

import dataclasses
import threading
import time
from concurrent import futures
from typing import Any, Generic, TypeVar

import grpc

from vit22b import errors, interrupts, wire_pb2
from vit22b.channel import Addresses, ChannelOptions, open_channel
from vit22b.retry import AWAY, Budget, Retry
from vit22b.waits import Waits

# A message of wire_pb2; generated code has no types.
Request = Any
Answer = TypeVar("Answer")

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

TIMEOUT = 60.0  # seconds, of a client that is told no other

_LONGEST = 365 * 24 * 3600.0  # seconds; gRPC takes much longer ones for none at all
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

    timeout: float = TIMEOUT
    retry: Retry = dataclasses.field(default_factory=Retry)
    hedge_after: float | None = None
    api_key: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= _LONGEST:
            raise ValueError(f"timeout is {self.timeout}; expected a positive number of seconds, at most a year")
        if self.hedge_after is not None and not self.hedge_after >= 0:
            raise ValueError(f"hedge_after is {self.hedge_after}; expected seconds, or None")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ValueError("the API key has a character that no key has, perhaps a line break; give the key alone")


class Transport:
    """Calls to a model. Threads may share it.

    Args:
        addresses: of its servers.
        model: the model that errors are about.
        channel: how the servers are reached.
        options: how they are asked.
        waits: where answers are waited for.

    Attributes:
        answered: whether any server has ever answered.
        absences: how often one was away, or did not answer in time. Who is back may serve another model by the same
            name and version.
        several: whether requests may go to several servers.
    """

    def __init__(
        self, addresses: Addresses, model: str, *, channel: ChannelOptions, options: CallOptions, waits: Waits
    ) -> None:
        self.addresses, self.model, self.options, self.waits = addresses, model, options, waits
        self.budget = Budget(options.retry.budget)
        self.metadata = (("authorization", f"Bearer {options.api_key}"),) if options.api_key else None
        self.answered, self.absences = False, 0
        self.several = channel.balance or len(addresses) > 1
        self._channel_options = channel
        self._lock = threading.Lock()
        self._target = ""
        self._channels: list[grpc.Channel] = []  # the last one is in use
        self._closed = False

    async def open(self) -> None:
        """Opens the channel, which looks names up and reads the files of the TLS; no effect on one that is open.

        Raises:
            VitError: a name is not known, or a file is not there.
        """
        if not self._channels:
            await self.waits.work(self._channel)

    async def look_again(self) -> None:
        """Opens another channel if the servers' names have other addresses by now."""
        # gRPC does so by itself for one address.
        if len(self.addresses) > 1:
            try:
                target = await self.waits.work(self.addresses.target)
            except OSError:
                return  # the names that were known are still worth a try
            if target != self._target:
                await self.waits.work(lambda: self._open(target))

    def predict(self, request: wire_pb2.PredictRequest) -> "Call[wire_pb2.PredictResponse]":
        """Sends a request and does not wait for the answer."""
        method = PREDICT, wire_pb2.PredictRequest.SerializeToString, wire_pb2.PredictResponse.FromString
        return Call(self, method, request)

    def status(self, request: wire_pb2.GetModelStatusRequest) -> "Call[wire_pb2.GetModelStatusResponse]":
        """Sends a question for the states of a model's versions and does not wait for the answer."""
        method = STATUS, wire_pb2.GetModelStatusRequest.SerializeToString, wire_pb2.GetModelStatusResponse.FromString
        return Call(self, method, request)

    def error(
        self, kind: type[errors.VitError], message: str, code: str, remedy: str, attempts: int = 1
    ) -> errors.VitError:
        """An exception of this tree about these servers and this model."""
        address = str(self.addresses)
        return kind(message, code=code, address=address, model=self.model, attempts=attempts, remedy=remedy)

    def send(self, method: tuple[str, Any, Any], request: Request, timeout: float) -> grpc.Future:
        """Sends a request once.

        Raises:
            ValueError: the client is closed.
            VitError: as open.
        """
        path, serialise, parse = method
        stub = self._channel().unary_unary(path, request_serializer=serialise, response_deserializer=parse)
        self.check_open()
        with interrupts.held_back():
            return stub.future(request, timeout=timeout, metadata=self.metadata)

    def check_open(self) -> None:
        """Raises ValueError if the client is closed."""
        if self._closed:
            raise ValueError("the client is closed; make another one")

    def close(self) -> None:
        """Closes the connections; calls under way end."""
        with self._lock:
            self._closed = True
            for channel in self._channels:
                channel.close()

    def _channel(self) -> grpc.Channel:
        self.check_open()
        if not self._channels:
            try:
                self._open(self.addresses.target(), anew=False)
            except OSError as error:
                remedy = "give the names and files that there are"
                raise self.error(errors.UnreachableError, str(error), "UNAVAILABLE", remedy) from error
        return self._channels[-1]

    def _open(self, target: str, *, anew: bool = True) -> None:
        with self._lock:
            if self._closed or (self._channels and (not anew or target == self._target)):
                return  # another thread was first
            self._channels.append(open_channel(self.addresses, self._channel_options, target))
            self._target = target


class Call(Generic[Answer]):
    """A request under way; made by Transport."""

    def __init__(self, transport: Transport, method: tuple[str, Any, Any], request: Request) -> None:
        self._transport, self._method, self._request = transport, method, request
        self._began = self._last_sent = time.monotonic()
        self._attempts = self._rounds = 0
        self._sent: dict[grpc.Future, futures.Future[None]] = {}
        self._begin()

    async def result(self) -> Answer:
        """Waits for the answer, and tries again where the Retry says so.

        Raises:
            ValueError: the client has been closed.
            VitError: the last attempt's error.
        """
        if self._is_answered():
            self._began = time.monotonic()  # while nobody waited, nobody tried again
        try:
            while True:
                failed = await self._first_answer()
                code = failed.code()
                self._transport.answered |= code is not grpc.StatusCode.UNAVAILABLE
                if code is grpc.StatusCode.OK:
                    self._transport.budget.earn()
                    return failed.result()
                await self._pause(code, failed.details() or "")
                self._begin()
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Gives the request up; no effect on one that has been answered."""
        for call in self._sent:
            call.cancel()

    async def _first_answer(self) -> Any:
        """The first of the requests to be answered, or the last to fail."""
        waits, hedge_after = self._transport.waits, self._transport.options.hedge_after
        for _ in range(_HEDGES if hedge_after is not None else 0):
            due = self._last_sent + (hedge_after or 0.0)
            await waits.first(self._sent.values(), max(0.0, due - time.monotonic()))
            if self._is_answered() or not self._transport.budget.spend():
                break
            self._send()
        while True:
            await waits.first(self._sent.values())
            for call in [call for call, done in self._sent.items() if done.done()]:
                if call.code() is grpc.StatusCode.OK or len(self._sent) == 1:
                    return call
                self._note(call.code(), call.details() or "")
                del self._sent[call]

    async def _pause(self, code: grpc.StatusCode, details: str) -> None:
        """Waits until the request may be sent again.

        Raises:
            ValueError: the client has been closed.
            VitError: it may not.
        """
        transport = self._transport
        transport.check_open()
        self._sent.clear()
        away = self._note(code, details)
        pause = transport.options.retry.pause(self._rounds, code, details, answered=transport.answered)
        # Of several servers one may have the version that another has not yet, or no longer.
        servers = max(2, len(transport.addresses)) if transport.several else 0
        if code is grpc.StatusCode.NOT_FOUND and self._rounds < _ROUNDS * servers:
            pause = 0.0
        within = pause is not None and pause < self._left()
        if not within or (errors.is_overload(code, details) and not transport.budget.spend()):
            address, model = str(transport.addresses), transport.model
            raise errors.from_status(code, details, address=address, model=model, attempts=self._attempts)
        await transport.waits.sleep(pause or 0.0)
        if away:
            await transport.look_again()

    def _note(self, code: grpc.StatusCode, details: str) -> bool:
        """Counts an absence; whether it was one. A server with too much to do is not away."""
        away = code in (*AWAY, grpc.StatusCode.DEADLINE_EXCEEDED) and not errors.is_overload(code, details)
        self._transport.absences += away
        return away

    def _begin(self) -> None:
        """Sends the request, for the first time or in a new round."""
        self._rounds += 1
        self._send()

    def _send(self) -> None:
        self._attempts += 1
        self._last_sent = time.monotonic()
        call = self._transport.send(self._method, self._request, max(0.0, self._left()))
        done: futures.Future[None] = futures.Future()
        self._sent[call] = done
        call.add_done_callback(lambda _call: _finish(done))

    def _is_answered(self) -> bool:
        return any(done.done() for done in self._sent.values())

    def _left(self) -> float:
        return self._transport.options.timeout - (time.monotonic() - self._began)


def _finish(done: "futures.Future[None]") -> None:
    if done.set_running_or_notify_cancel():  # whoever waited in an event loop may have gone
        done.set_result(None)
