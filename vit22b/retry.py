"""When a client asks again: which failures, how often, after how long, and how much of it a server has to bear.

Under vit22b.transport, at the end of the walk SavedModel -> server -> client.
"""

import dataclasses
import random
import threading

import grpc

from vit22b import errors

AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)  # of a server that is not there, or ends

_EARNED = 0.1  # of a retry, by every answer: so a server that answers little is asked again little


@dataclasses.dataclass(frozen=True)
class Retry:
    """When a call is tried again, and after how long.

    Only what no request can have caused is retried: a server that is away or restarts (UNAVAILABLE, or CANCELLED by the
    server's gRPC as its port closes), and one that has no thread or no place in its queue. All requests of this client
    can be repeated without harm. The pause is drawn between 0 and a bound that doubles each time, so that clients do
    not return all at once.

    Attributes:
        attempts: calls in all, the first included; 1 means no retry.
        first_attempts: the same, while the server has never answered: it may not be where it is looked for, and who
            waits for it wants to know. None for as many as `attempts`.
        first_pause: bound of the first pause, in seconds.
        longest_pause: bound of every pause, in seconds.
        budget: how many more requests than were asked for a client may send in a row to a server that has too much to
            do: retries of an overload, and hedges. Every answer gives back a tenth of one.
    """

    attempts: int = 5
    first_pause: float = 0.2
    longest_pause: float = 5.0
    budget: float = 50.0
    first_attempts: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("attempts", self.attempts), ("first_attempts", self.first_attempts or 1)):
            if not 1 <= value <= 1000:
                raise ValueError(f"{name} is {value}; expected 1 (the call alone) to 1000")
        for name in ("first_pause", "longest_pause", "budget"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")

    def pause(self, attempt: int, code: grpc.StatusCode, details: str, *, answered: bool = True) -> float | None:
        """Seconds to wait after attempt number `attempt` (from 1) has failed, or None to give up.

        Args:
            attempt: its number.
            code, details: its status.
            answered: whether the server has ever answered.
        """
        attempts = self.attempts if answered else self.first_attempts or self.attempts
        if not (code in AWAY or errors.is_overload(code, details)) or attempt >= attempts:
            return None
        return random.uniform(0, min(self.longest_pause, self.first_pause * 2 ** (attempt - 1)))


class Budget:
    """What is left of Retry.budget, for all calls of a client; threads may share it."""

    def __init__(self, size: float):
        """Starts full."""
        self._size = self._left = size
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Counts an answer."""
        with self._lock:
            self._left = min(self._size, self._left + _EARNED)

    def spend(self) -> bool:
        """Takes one request from it; False if there is none left."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True
