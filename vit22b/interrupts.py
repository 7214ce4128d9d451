"""Ctrl-C, held back for the moment in which it would do harm.

Under vit22b.transport, beside the walk. Python raises KeyboardInterrupt between any two lines of the main thread. While
gRPC starts a request it leaves a call that nobody completes, and who closes the channel then waits for it for ever.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """What is done within is not interrupted; KeyboardInterrupt comes behind it.

    No effect outside the main thread, which is never interrupted, and where a program handles the signal itself.
    """
    alone = threading.current_thread() is not threading.main_thread()
    if alone or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            raise KeyboardInterrupt
