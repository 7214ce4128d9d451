"""The signals that stop a run.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import itertools
import os
import signal
import sys
from types import FrameType

import jax
from jax.experimental import multihost_utils

SHOW_CURSOR = "\x1b[?25h"


class StopSignal:
    """Turns SIGTERM and SIGINT into a request that the loop sees at the end of a step; a second Ctrl-C ends it all.

    With several processes SIGTERM is left to JAX, whose coordination service tells the others and picks a step that
    none of them has passed.
    """

    # Of the process, as JAX's own count is: one StopSignal may follow another, or stand inside it.
    _asked = itertools.count()

    def __enter__(self) -> "StopSignal":
        self._requested, self._interrupts = False, 0
        numbers = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else (signal.SIGINT,)
        self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def now(self) -> bool:
        """Whether to stop; every process asks once a step, and all get the same answer."""
        if jax.process_count() > 1:
            # Not the step's number: to a signal before the first question JAX answers with 0, and 0 must come.
            return multihost_utils.reached_preemption_sync_point(next(self._asked))
        return self._requested

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._requested = True
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            # At once: unwinding would wait for the checkpoint that is being written. A half-written one is never taken.
            cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
            os.write(2, f"{cursor}interrupted; nothing was saved of the steps since the last checkpoint\n".encode())
            os._exit(130)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
