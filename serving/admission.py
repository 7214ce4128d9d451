"""How many requests are in the server at once, and a bound on them.

Part of desk.py on the way SavedModel -> server -> client. Beyond the bound a request is refused at once, which a client
sees as RESOURCE_EXHAUSTED (429 over REST) and tries again. How many are worked on is up to the wires' threads.
"""

import threading

from serving.flags import Flags
from serving.status import exhausted


class Admission:
    """Counts requests in and out. Each passes enter and leave, and between them, if it is served, begin and done."""

    def __init__(self, *, max_pending: int = Flags.max_pending):
        """Sets the bound.

        Args:
            max_pending: requests that wait or are worked on.

        Raises:
            ValueError: a bound that lets nothing through.
        """
        if max_pending < 1:
            raise ValueError(f"--max_pending is {max_pending}; expected 1 or more, the requests in the server at once")
        self.max_pending = max_pending
        self._lock = threading.Lock()
        self._pending = 0
        self._running = 0

    @property
    def running(self) -> int:
        """Requests that are worked on."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests that are in, but not worked on: their bodies are on the way, or no thread is free."""
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
                raise exhausted(text)
            self._pending += 1

    def begin(self) -> None:
        """Work begins on a request."""
        with self._lock:
            self._running += 1

    def done(self) -> None:
        """It has ended."""
        with self._lock:
            self._running -= 1

    def leave(self) -> None:
        """Gives the place back."""
        with self._lock:
            self._pending -= 1
