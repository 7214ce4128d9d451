"""How many requests are in the server at once: a bound on all of them, and on those that are worked on.

Part of desk.py on the way SavedModel -> server -> client. Beyond the first bound a request is refused at once, which a
client sees as RESOURCE_EXHAUSTED (429 over REST) and tries again; between the two it waits for its turn, in the order
of arrival, until its deadline has passed or its caller has gone.
"""

import collections
import threading

import tensorflow as tf

from serving.call import Call

MAX_PENDING = 1000
_LOOK = 0.05  # seconds between two looks at whether the caller of a waiting request has gone


class Admission:
    """Counts requests in and out. Each one passes enter, wait, done and leave; done only if wait returned."""

    def __init__(self, *, max_pending: int = MAX_PENDING, max_running: int = 0):
        """Nobody is in.

        Args:
            max_pending: requests that wait or are worked on.
            max_running: requests that are worked on; 0 for as many as there are.

        Raises:
            ValueError: a bound that lets nothing through.
        """
        if max_pending < 1:
            raise ValueError(f"--max_pending is {max_pending}; expected 1 or more, the requests in the server at once")
        if max_running < 0:
            raise ValueError(f"--max_running is {max_running}; expected 1 or more, or 0 for no bound of its own")
        self.max_pending = max_pending
        self.max_running = max_running
        self._lock = threading.Lock()
        self._pending = 0
        self._running = 0
        self._line: collections.deque[threading.Event] = collections.deque()  # one for each that waits, first first

    @property
    def running(self) -> int:
        """Requests that are worked on."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests that are in, but not worked on."""
        return max(0, self._pending - self._running)

    def enter(self) -> None:
        """Takes a place.

        Raises:
            tf.errors.ResourceExhaustedError: there is none.
        """
        with self._lock:
            if self._pending >= self.max_pending:
                text = (
                    f"The server is full: {self._pending} requests are under way or waiting (--max_pending); try again"
                )
                raise tf.errors.ResourceExhaustedError(None, None, text)
            self._pending += 1

    def wait(self, call: Call) -> None:
        """Waits for the call's turn.

        Raises:
            tf.errors.OpError: nobody waits for the answer any more: CANCELLED or DEADLINE_EXCEEDED.
        """
        with self._lock:
            if turn := self._take_turn():
                self._line.append(turn)
        try:
            while turn and not turn.wait(_patience(call)):
                call.check()
            call.check()
        except tf.errors.OpError:
            self._give_up(turn)
            raise

    def done(self) -> None:
        """Ends a turn."""
        with self._lock:
            self._running -= 1
            self._call_next()

    def leave(self) -> None:
        """Gives the place back."""
        with self._lock:
            self._pending -= 1

    def _take_turn(self) -> threading.Event | None:
        """Begins a turn, or returns what to wait for."""
        if self._line or not self._has_room():
            return threading.Event()
        self._running += 1
        return None

    def _give_up(self, turn: threading.Event | None) -> None:
        with self._lock:
            if turn and not turn.is_set():
                self._line.remove(turn)
            else:  # its turn came meanwhile
                self._running -= 1
                self._call_next()

    def _has_room(self) -> bool:
        return not self.max_running or self._running < self.max_running

    def _call_next(self) -> None:
        while self._line and self._has_room():
            self._running += 1
            self._line.popleft().set()


def _patience(call: Call) -> float:
    """Seconds until a waiting call is looked at again."""
    remaining = call.remaining()
    return _LOOK if remaining is None else max(0.0, min(_LOOK, remaining))
