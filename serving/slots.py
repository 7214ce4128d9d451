"""The gRPC calls that are under way: how many are answered at once, and when the last one has ended.

Part of the gRPC wire, services.py, on the way SavedModel -> server -> client. A call has ended when its answer has
left, or its caller has. Until then it keeps its slot: an answer that nobody reads stays in the server's memory, and a
client that asked for many of them would fill it.
"""

import threading
import time
from collections.abc import Callable

import grpc


class Slots:
    """Slots for calls that are answered, and the number of those that have come in.

    Attributes:
        free: slots.
    """

    def __init__(self, count: int):
        """Has so many slots."""
        self.free = count
        self._under_way = 0
        self._closed = False
        self._changed = threading.Condition()

    def enter(self, context: grpc.ServicerContext) -> bool:
        """Counts a call until it has ended; False for one that comes after `close`."""
        with self._changed:
            if self._closed:
                return False
            self._under_way += 1
        _at_end(context, self._leave)
        return True

    def take(self) -> bool:
        """Takes a slot for a call; whether there was one."""
        with self._changed:
            taken = self.free > 0
            self.free -= taken
        return taken

    def give_back(self, context: grpc.ServicerContext) -> None:
        """Frees a slot whose work is done as soon as the call has ended."""
        # Not before the work is done: gRPC calls back as soon as a caller has gone, while a run may go on.
        _at_end(context, self._free)

    def close(self) -> None:
        """Lets no more calls in."""
        with self._changed:
            self._closed = True

    def wait(self, end: float) -> None:
        """Returns when no call is under way, or at `end`, by time.monotonic()."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, max(0.0, end - time.monotonic()))

    def _leave(self) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def _free(self) -> None:
        with self._changed:
            self.free += 1


def _at_end(context: grpc.ServicerContext, then: Callable[[], None]) -> None:
    if not context.add_callback(then):  # it has ended already
        then()
