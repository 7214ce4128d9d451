"""At what pace requests are sent: each behind the answer before it, or when its time comes whatever is under way.

For clients/bench.py and the server's own benchmarks, beside the walk SavedModel -> server -> client. What a request is
they say themselves.
"""

import collections
import dataclasses
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]
Arrivals = Literal["poisson", "constant"]

NOT_SENT = "NOT_SENT"  # for a request whose time came when too many others were under way
LOST = "LOST"  # for one that was neither answered nor refused in the end
_PATIENCE = 60.0  # seconds, for what is still under way at the end


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a load.

    Attributes:
        seconds: from the first counted request to the last answer.
        latencies: of the requests that were answered, in seconds.
        failures: how many were not, by code.
        lateness: by how much each was sent behind its time, in seconds; empty in a closed loop, where there is none.
    """

    seconds: float
    latencies: Seconds
    failures: Mapping[str, int]
    lateness: Seconds

    @property
    def failed(self) -> int:
        """How many requests were not answered."""
        return sum(self.failures.values())

    @property
    def rate(self) -> float:
        """Requests that were answered, a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0


def closed_loop(
    callers: Sequence[Callable[[], str]], seconds: float, *, warm_up: float = 0.0, stop: threading.Event | None = None
) -> Outcome:
    """Every caller calls at least once, and again as soon as it has its answer; all have their last one.

    A latency is that of a call, and no more: while a slow server holds its callers up they do not call. What a user
    would wait whose requests come at times of their own is what open_loop measures.

    Args:
        callers: functions that make a request each, wait, and return "", or the code of a failure.
        seconds: how long, once it is warm.
        warm_up: seconds before that, in which nothing is counted.
        stop: ends it earlier.
    """
    stop = stop or threading.Event()
    tallies = [_Tally() for _ in callers]
    begin = time.perf_counter() + warm_up
    end = begin + seconds

    def run(caller: Callable[[], str], tally: _Tally) -> None:
        counted = 0
        while not stop.is_set():
            start = time.perf_counter()
            # So that each is counted once, however late its thread starts.
            if start >= end and counted:
                return
            code = caller()
            if start >= begin:
                counted += 1
                tally.note(code, time.perf_counter() - start)

    threads = [threading.Thread(target=run, args=each) for each in zip(callers, tallies, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _outcome(tallies, max(time.perf_counter() - begin, 0.0), array("d"))


def arrival_times(rate: float, seconds: float, arrivals: Arrivals = "poisson", seed: int = 0) -> Seconds:
    """When requests are due, in seconds from the start, ascending.

    Args:
        rate: of them, a second.
        seconds: about how long; there are rate * seconds requests, and at least one.
        arrivals: "poisson": independent of each other, as those of many users. "constant": at equal distances.
        seed: of the former.
    """
    count = max(1, round(rate * seconds))
    if arrivals == "constant":
        return np.arange(count) / rate
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, size=count))


def open_loop(
    send: Callable[[Callable[[str], None]], None],
    times: Seconds,
    *,
    warm_up: float = 0.0,
    most: int | None = None,
    stop: threading.Event | None = None,
) -> Outcome:
    """Sends requests at their times, whether or not the requests before have been answered.

    A latency counts from the moment at which the request was due, not from when the sender came to it, so that a
    server which holds up the sender does not hide what those behind it waited (coordinated omission).

    Args:
        send: sends a request and returns at once; it calls what it is given, once and from any thread, with "" for an
            answer or with the code of a failure.
        times: when requests are due, in seconds from now; those before `warm_up` are sent and not counted.
        warm_up: seconds.
        most: requests under way at once. One whose time comes beyond that counts as failed, by NOT_SENT.
        stop: ends it earlier; requests under way are waited for.
    """
    stop = stop or threading.Event()
    tally, warm = _Tally(), _Tally()
    lateness = array("d")
    under_way = _Counter()
    start = time.perf_counter()
    for due in start + times:
        if stop.wait(max(0.0, due - time.perf_counter())):
            break
        counted = due >= start + warm_up
        into = tally if counted else warm
        if most is not None and under_way.value >= most:
            into.note(NOT_SENT, 0.0)
            continue
        if counted:
            lateness.append(time.perf_counter() - due)
        under_way.add(1)

        def done(code: str, due: float = due, into: _Tally = into) -> None:
            into.note(code, time.perf_counter() - due)
            under_way.add(-1)

        send(done)
    for _ in range(under_way.wait(_PATIENCE)):
        tally.note(LOST, 0.0)
    return _outcome([tally], max(time.perf_counter() - start - warm_up, 0.0), lateness)


class _Tally:
    """Latencies and codes, noted by any number of threads: to append is one step of the interpreter."""

    def __init__(self) -> None:
        self.latencies = array("d")
        self.codes: list[str] = []

    def note(self, code: str, latency: float) -> None:
        if code:
            self.codes.append(code)
        else:
            self.latencies.append(latency)


class _Counter:
    """A number that threads change, and that one can be seen to come to 0."""

    def __init__(self) -> None:
        self.value = 0
        self._changed = threading.Condition()

    def add(self, count: int) -> None:
        with self._changed:
            self.value += count
            if not self.value:
                self._changed.notify_all()

    def wait(self, seconds: float) -> int:
        """Waits for 0; what the number is then."""
        with self._changed:
            self._changed.wait_for(lambda: not self.value, seconds)
            return self.value


def _outcome(tallies: Sequence[_Tally], seconds: float, lateness: "array[float]") -> Outcome:
    latencies = np.concatenate([np.array(tally.latencies, np.float64) for tally in tallies])
    codes = collections.Counter(code for tally in tallies for code in tally.codes)
    return Outcome(seconds, latencies, dict(codes.most_common()), np.array(lateness, np.float64))
