"""How many requests there were and how long they took, since the start and over the last minute.

Beside the way SavedModel -> server -> client: an observer of desk.py, shown by statusz.py. Memory does not grow with
the number of requests: times are counted in buckets 10% apart, so that is how exact a percentile is.
"""

import bisect
import collections
import dataclasses
import operator
import threading
import time
from collections.abc import Callable

from serving.call import Call
from serving.model_names import ModelNames

MINUTE = 60  # seconds
_SLOT = 5  # seconds; the last minute is that of whole slots
_LIMITS = [1e-5 * 1.1**exponent for exponent in range(180)]  # seconds: 10 us to 256 s


@dataclasses.dataclass(frozen=True)
class Summary:
    """Requests in some time.

    Attributes:
        count: of them, whatever their status.
        per_second: their rate.
        p50, p95, p99: seconds within which that share of them was answered; None without any.
        statuses: how many had which.
    """

    count: int
    per_second: float
    p50: float | None
    p95: float | None
    p99: float | None
    statuses: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of one model and API."""

    model: str
    api: str
    entrypoint: str
    minute: Summary
    whole: Summary


class _Account:
    """Requests by bucket and by status."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_LIMITS) + 1)
        self.statuses: collections.Counter[str] = collections.Counter()

    def add(self, status: str, seconds: float) -> None:
        self.counts[bisect.bisect_left(_LIMITS, seconds)] += 1
        self.statuses[status] += 1

    def summary(self, seconds: float) -> Summary:
        """What it comes to if it took so long."""
        total = sum(self.counts)
        percentiles = (_percentile(self.counts, total, share) for share in (0.5, 0.95, 0.99))
        return Summary(total, total / seconds, *percentiles, dict(self.statuses))


class _Series:
    def __init__(self) -> None:
        self.whole = _Account()
        self.slots: collections.deque[tuple[int, _Account]] = collections.deque(maxlen=MINUTE // _SLOT)

    def since(self, oldest: int) -> _Account:
        """The slots from a number on, as one."""
        account = _Account()
        for number, slot in self.slots:
            if number >= oldest:
                account.counts = [*map(operator.add, account.counts, slot.counts)]
                account.statuses += slot.statuses
        return account


class Rates:
    """Counts requests by model, API and entrypoint."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, names: ModelNames | None = None):
        """Counts from now on, by a clock in seconds, models under their `names`."""
        self._names = names or ModelNames()
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._series: dict[tuple[str, str, str], _Series] = {}

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def end(self, call: Call, status: str, seconds: float) -> None:
        """Counts a request."""
        slot = int(self._clock() // _SLOT)
        key = (self._names.of(call), call.api, call.entrypoint)
        with self._lock:
            series = self._series.setdefault(key, _Series())
            if not series.slots or series.slots[-1][0] != slot:
                series.slots.append((slot, _Account()))
            series.slots[-1][1].add(status, seconds)
            series.whole.add(status, seconds)

    def rows(self) -> list[Row]:
        """What there was, by model, API and entrypoint."""
        now = self._clock()
        oldest = int(now // _SLOT) - MINUTE // _SLOT + 1
        lasted = max(1e-9, now - max(self._start, oldest * _SLOT))
        with self._lock:
            return [
                Row(*key, series.since(oldest).summary(lasted), series.whole.summary(max(1e-9, now - self._start)))
                for key, series in sorted(self._series.items())
            ]


def _percentile(counts: list[int], total: int, share: float) -> float | None:
    """The upper limit of the bucket that the share ends in."""
    seen = 0
    for limit, count in zip([*_LIMITS, _LIMITS[-1]], counts, strict=False):
        seen += count
        if count and seen >= share * total:
            return limit
    return None
