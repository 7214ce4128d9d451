"""The waits for a request's bytes: how many there may be, and who gives up a place in favour of the next.

Part of the gRPC wire, services.py and health.py, on the way SavedModel -> server -> client. gRPC hands a call over when
its headers have come, and a thread waits for the rest. A caller that sends nothing more would hold that thread for
ever; so waits have places of their own, which take no call's place from those that are computed.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

import grpc


class Uploads:
    """The calls of whose request something is still to come.

    A wait ends with the call's deadline or with its connection, as gRPC sees to. One that has lasted longer than
    `patience` is ended when its place is wanted; its caller sees CANCELLED.
    """

    def __init__(self, places: int, patience: float):
        """Sets the bounds.

        Args:
            places: calls that may wait at once, each with a thread.
            patience: seconds that a call has for its request while all places are taken.
        """
        self.places = places
        self._patience = patience
        self._lock = threading.Lock()
        self._waiting: dict[grpc.ServicerContext, float] = {}  # since when; the longest wait first

    @contextlib.contextmanager
    def place(self, context: grpc.ServicerContext) -> Iterator[bool]:
        """Takes a place for the time within; the value is whether there was one."""
        taken = self._take(context)
        try:
            yield taken
        finally:
            with self._lock:
                self._waiting.pop(context, None)

    def _take(self, context: grpc.ServicerContext) -> bool:
        now = time.monotonic()
        with self._lock:
            if len(self._waiting) >= self.places:
                oldest, since = next(iter(self._waiting.items()))
                if now - since < self._patience:
                    return False
                del self._waiting[oldest]
                oldest.cancel()  # its thread wakes up and ends
            self._waiting[context] = now
        return True
