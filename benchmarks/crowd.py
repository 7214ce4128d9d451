"""Clients of all kinds that ask a server as fast as it answers: patient, hasty, rude, and too many at once.

The end of the walk SavedModel -> server -> [client], as a server meets it in a bad week. What they ask comes from
traffic.py; what they get is counted by tally.py.
"""

import contextlib
import dataclasses
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

from benchmarks.raw_client import LOST, Grpc, Http
from benchmarks.tally import Sent, Tally
from benchmarks.traffic import Ask

PATIENCE = 120.0  # seconds; a request without an answer by then is lost
_HASTE = 0.02  # seconds, the longest deadline of the hasty
_PINNED = 0.25  # share of requests that ask for a version by its number
_BURST = 80  # requests at once, over each wire
_BETWEEN_BURSTS = 4.0  # seconds

logger = logging.getLogger(__name__)


class Gate:
    """Lets threads in, and can be closed while none is within."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._within = 0
        self._closed = False

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._within += 1

    def __exit__(self, *_raised: object) -> None:
        with self._changed:
            self._within -= 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """A time in which nobody is within."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._within)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


class Crowd:
    """Threads that ask until they are told to stop, or nobody answers any more.

    Attributes:
        gate: that each passes for each request.
        version: the one that answers, to be asked for by its number.
        defects: what has ended a client before its time, in words; with any of them the counts are not whole.
    """

    def __init__(self, grpc: str, rest: str, asks: Sequence[Ask], tally: Tally, seed: int):
        """Takes the addresses of both ports; `start` begins."""
        self.gate = Gate()
        self.version: int | None = None
        self.defects: list[str] = []
        self._addresses = grpc, rest
        self._grpc_asks = [ask for ask in asks if ask.path]
        self._rest_asks = [ask for ask in asks if not ask.path]
        self._tally = tally
        self._seed = seed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, grpc: int, rest: int) -> None:
        """Starts so many patient clients, and one of each other kind."""
        kinds = [self._patient] * grpc + [self._patient_rest] * rest + [self._hasty, self._rude, self._burst]
        for number, kind in enumerate(kinds):
            generator = random.Random(f"{self._seed} {number}")
            thread = threading.Thread(target=self._live, args=(kind, generator), name=f"client-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Ends them, each behind its answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def ask_at_once(self, asks: Sequence[Ask]) -> None:
        """Sends requests all at once, more of them than the server takes, and waits for all answers."""
        with self._tally.overload(), futures.ThreadPoolExecutor(len(asks)) as pool:
            for done in [pool.submit(self.ask, ask) for ask in asks]:
                done.result()

    def ask(self, ask: Ask, *, at_work: bool = False) -> None:
        """Sends one request on a connection of its own, waits, and counts it; `at_work` as in Sent."""
        sent = dataclasses.replace(self._sent(ask), at_work=at_work)
        if ask.path:
            with contextlib.closing(Grpc(self._addresses[0])) as client:
                self._tally.record(sent, client.send(ask.path, ask.content, patience=PATIENCE))
        else:
            with contextlib.closing(Http(self._addresses[1], PATIENCE)) as client:
                self._tally.record(sent, client.send(ask.content))

    def _live(self, kind: Callable[[random.Random], None], generator: random.Random) -> None:
        try:
            kind(generator)
        except Exception as error:  # it is told at the end, and the other clients go on
            logger.exception("A client has ended")
            self.defects.append(f"{threading.current_thread().name}: {type(error).__name__}: {error}")

    def _patient(self, generator: random.Random) -> None:
        with contextlib.closing(Grpc(self._addresses[0])) as client:
            self._again(lambda: self._wait_grpc(client, generator))

    def _patient_rest(self, generator: random.Random) -> None:
        with contextlib.closing(Http(self._addresses[1], PATIENCE)) as client:
            self._again(lambda: self._wait_rest(client, generator))

    # Those that do not wait ask in turns with patience: a server may be busy with what they have left behind, and
    # there should not be more of it than it can bear.

    def _hasty(self, generator: random.Random) -> None:
        """Deadlines that pass in the queue, in the run, or not at all."""
        with contextlib.closing(Grpc(self._addresses[0])) as client:

            def ask() -> bool:
                sent = self._sent(generator.choice(self._grpc_asks), hasty=True)
                timeout = generator.uniform(0, _HASTE)
                self._tally.record(sent, client.send(sent.ask.path, sent.ask.content, timeout, patience=PATIENCE))
                return self._wait_grpc(client, generator)

            self._again(ask)

    def _rude(self, generator: random.Random) -> None:
        """Goes without waiting for the answer, over both wires."""
        with (
            contextlib.closing(Grpc(self._addresses[0])) as client,
            contextlib.closing(Http(self._addresses[1], PATIENCE)) as http,
        ):

            def ask() -> bool:
                ask = generator.choice(self._grpc_asks)
                call = client.begin(ask.path, ask.content)
                time.sleep(generator.uniform(0, _HASTE))
                call.cancel()
                self._tally.abandon()
                try:
                    http.leave(generator.choice(self._rest_asks).content)
                except OSError:
                    return False  # the port is closed
                self._tally.abandon()
                return self._wait_grpc(client, generator) and self._wait_rest(http, generator)

            self._again(ask)

    def _burst(self, generator: random.Random) -> None:
        """More requests at once than the server takes."""

        def burst() -> bool:
            asks = generator.choices(self._grpc_asks, k=_BURST) + generator.choices(self._rest_asks, k=_BURST)
            self.ask_at_once(asks)
            return not self._stop.wait(_BETWEEN_BURSTS)

        self._again(burst)

    def _wait_grpc(self, client: Grpc, generator: random.Random) -> bool:
        """Asks, waits, and counts; False if there was no answer."""
        ask = generator.choice(self._grpc_asks)
        pinned = ask.spec and generator.random() < _PINNED
        sent = self._sent(ask, version=self.version if pinned else None)
        content = ask.content if sent.version is None else ask.pinned(sent.version)
        reply = client.send(ask.path, content, patience=PATIENCE)
        self._tally.record(sent, reply)
        return reply.code != LOST

    def _wait_rest(self, client: Http, generator: random.Random) -> bool:
        sent = self._sent(generator.choice(self._rest_asks))
        reply = client.send(sent.ask.content)
        self._tally.record(sent, reply)
        return reply.code != LOST

    def _again(self, ask: Callable[[], bool]) -> None:
        """Asks until there is an end: that of the soak, or that of the server."""
        answered = True
        while not self._stop.is_set() and (answered or self._tally.terminated is None):
            with self.gate:
                answered = ask()

    def _sent(self, ask: Ask, *, version: int | None = None, hasty: bool = False) -> Sent:
        tally = self._tally
        return Sent(ask, time.monotonic(), tally.overload.mark(), tally.switching.mark(), version, hasty)
