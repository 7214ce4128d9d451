"""What is known of a request on its way, and where it ends: in the log and in the metrics.

Beside the way SavedModel -> server -> [gateway] -> application: gateway_door.py makes a Visit of every request, the
routes add what they know.
"""

import collections
import dataclasses
import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from serving.gateway_items import Item
from serving.gateway_metrics import Metrics

HUNG_UP = 499  # nginx's number for a caller that did not wait; it is counted and logged, and nobody sees it
_LOGGED = 200  # characters of a path


class Lines(Protocol):
    """Where lines of the log go."""

    def put(self, entry: Mapping[str, object]) -> None:
        """Takes a line."""


@dataclasses.dataclass
class Visit:
    """A request on its way.

    Attributes:
        id: of the caller, or made.
        method, path: what it asks for.
        route: the pattern of the path; of those that there are, so that no caller can make series without end.
        peer: address of the caller.
        user: whose key it came with.
        items: how many texts and images it had, by kind (text, image) and outcome (ok, failed).
        version: of the model that answered.
        error: the code of a refusal.
        hung_up: whether the caller is gone.
    """

    id: str
    method: str
    path: str
    route: str
    peer: str
    user: str | None = None
    items: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    version: int | None = None
    error: str | None = None
    hung_up: bool = False

    def note(self, items: Sequence[Item], failed: Collection[int], version: int) -> None:
        """Notes what was asked for, and which version answered."""
        self.version = version
        for index, item in enumerate(items):
            self.items["text" if isinstance(item, str) else "image", "failed" if index in failed else "ok"] += 1


class Register:
    """Writes down the visits that have ended.

    Args:
        metrics: count them.
        lines: the log; None for none.
    """

    def __init__(self, metrics: Metrics, lines: Lines | None):
        self._metrics, self._lines = metrics, lines

    def end(self, visit: Visit, status: int, seconds: float) -> None:
        """Counts and logs a visit, with the status that it was answered with; 0 for none."""
        code = HUNG_UP if visit.hung_up else status or 500
        self._metrics.requests.labels(visit.route, visit.method, str(code)).inc()
        self._metrics.seconds.labels(visit.route).observe(seconds)
        for (kind, outcome), number in visit.items.items():
            self._metrics.items.labels(visit.route, kind, outcome).inc(number)
        if self._lines is not None:
            self._lines.put(_entry(visit, code, seconds))


def _entry(visit: Visit, code: int, seconds: float) -> dict[str, object]:
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "id": visit.id,
        "method": visit.method,
        "path": visit.path[:_LOGGED],
        "code": code,
        "error": visit.error,
        "ms": round(seconds * 1e3, 3),
        "items": visit.items.total(),
        "failed": sum(number for (_, outcome), number in visit.items.items() if outcome == "failed"),
        "version": visit.version,
        "user": visit.user,
        "peer": visit.peer,
    }
