"""What became of the requests of a soak: answered rightly, refused as they had to be, or not.

Beside the walk SavedModel -> server -> [client]: crowd.py asks, and what it gets is judged and counted here.
"""

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError

from benchmarks.raw_client import LOST, Reply
from benchmarks.traffic import Ask

_FULL = frozenset({"RESOURCE_EXHAUSTED", "429"})
_LATE = frozenset({"DEADLINE_EXCEEDED", "CANCELLED"})  # the second where the server's gRPC was first to see it
_KEPT = 10  # of each kind of failure, in words
_ON_THE_WAY = 0.25  # seconds before SIGTERM that a request may have been sent, and not have come in
# What gRPC's core says of a call that it holds when its port closes, and that no thread has taken; in a burst they wait
# for a thread so long, in seconds.
_UNTAKEN, _WAIT = "CANCELLED", 2.0


class Disturbance:
    """Times in which a server may refuse what it must answer at others: an overload, a change of versions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = self._past = 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """The time within is one."""
        with self._lock:
            self._now += 1
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1
                self._past += 1

    def mark(self) -> int:
        """Where we are, for `since`: how many there have been, or -1 within one."""
        with self._lock:
            return -1 if self._now else self._past

    def since(self, mark: int) -> bool:
        """Whether any of the time since then was one."""
        return mark != self.mark() or mark < 0


@dataclasses.dataclass(frozen=True)
class Sent:
    """A request on its way.

    Attributes:
        ask: what was asked.
        began: by time.monotonic(), in seconds.
        overload, switching: marks of the disturbances at that time.
        version: that was asked for; None for any.
        hasty: whether its deadline is shorter than an answer may take.
        at_work: whether the server is at work on it when SIGTERM comes, and so has to answer.
    """

    ask: Ask
    began: float
    overload: int
    switching: int
    version: int | None = None
    hasty: bool = False
    at_work: bool = False

    @property
    def api(self) -> str:
        """GRPC or REST."""
        return "GRPC" if self.ask.path else "REST"


class Tally:
    """Counts what became of requests, by any number of threads.

    Attributes:
        overload, switching: when a server may refuse for that reason.
        terminated: when SIGTERM was sent, by time.monotonic(); None before.
        sent, answered, wrong, lost: numbers of requests. Answered are those whose answer was right.
        abandoned: that the client gave up on purpose: it hung up, or its deadline passed.
        refused_at_the_end: that came too late, after SIGTERM.
        failed: numbers of requests by API, code, and whether it was expected.
        slowest: seconds that the slowest answer has taken, by API.
        details: in words, the first of those that are not as they should be.
    """

    def __init__(self) -> None:
        self.overload, self.switching = Disturbance(), Disturbance()
        self.terminated: float | None = None
        self.sent = self.answered = self.wrong = self.lost = self.abandoned = self.refused_at_the_end = 0
        self.failed: collections.Counter[tuple[str, str, bool]] = collections.Counter()
        self.slowest: dict[str, float] = {}
        self.details: list[str] = []
        self._lock = threading.Lock()

    def record(self, sent: Sent, reply: Reply) -> None:
        """Counts a request with what it got."""
        seconds, wrong = time.monotonic() - sent.began, self._wrong(sent, reply)
        with self._lock:
            self.sent += 1
            self.slowest[sent.api] = max(self.slowest.get(sent.api, 0.0), seconds)
            if reply.code == LOST:
                self._lose(sent, reply)
            elif sent.hasty and reply.code in _LATE:
                self.abandoned += 1
            elif reply.code == _UNTAKEN and self._too_late(sent, _WAIT):
                self.refused_at_the_end += 1
            elif wrong:
                self.wrong += 1
                self._tell(f"{sent.ask.name}: {wrong}")
            elif reply.code in ("OK", "200"):
                self.answered += 1
            else:
                expected = self._expected(sent, reply)
                self.failed[sent.api, reply.code, expected] += 1
                if not expected:
                    self._tell(f"{sent.ask.name}: {reply.code} {reply.text} {reply.content[:200]!r}")

    def abandon(self) -> None:
        """Counts a request that the client gave up."""
        with self._lock:
            self.sent += 1
            self.abandoned += 1

    def fields(self) -> dict[str, Any]:
        """Of a report: see build/soak/report.json in docs/reports.md."""
        return {
            "sent": self.sent,
            "answered": self.answered,
            "failed": [
                {"api": api, "code": code, "expected": expected, "times": times}
                for (api, code, expected), times in sorted(self.failed.items())
            ],
            "abandoned": self.abandoned,
            "refused_at_the_end": self.refused_at_the_end,
            "wrong_answers": self.wrong,
            "lost": self.lost,
            "details": self.details,
            "slowest_seconds": {api: round(seconds, 3) for api, seconds in sorted(self.slowest.items())},
        }

    def _wrong(self, sent: Sent, reply: Reply) -> str:
        if reply.code not in ("OK", "200"):
            return ""
        if reply.code != sent.ask.code:
            return f"{reply.code}, expected {sent.ask.code}"
        try:
            return sent.ask.wrong(reply.content) or sent.ask.other_version(reply.content, sent.version)
        except (ValueError, LookupError, TypeError, AttributeError, DecodeError) as error:
            return f"the answer is malformed: {type(error).__name__}: {error}"

    def _expected(self, sent: Sent, reply: Reply) -> bool:
        if reply.code in _FULL and self.overload.since(sent.overload):
            return reply.code != "429" or "retry-after" in reply.headers
        unloaded = reply.code == "NOT_FOUND" and sent.version is not None and self.switching.since(sent.switching)
        return unloaded or reply.code == sent.ask.code

    def _lose(self, sent: Sent, reply: Reply) -> None:
        if self._too_late(sent, _ON_THE_WAY):
            self.refused_at_the_end += 1
            return
        self.lost += 1
        self._tell(f"{sent.ask.name} is lost: {reply.text}")

    def _too_late(self, sent: Sent, seconds: float) -> bool:
        """Whether a request was sent so many seconds before SIGTERM, or later, and nobody was at work on it."""
        return self.terminated is not None and not sent.at_work and sent.began >= self.terminated - seconds

    def _tell(self, text: str) -> None:
        if len(self.details) < _KEPT:
            self.details.append(text)
