"""A request that waits for its batch: its rows, and how its thread learns what became of them.

Under session_batching.py in the server, on the way between a loaded version and its runtime. A request's rows are one
task of batch_queue.py, or several, if they were taken apart.
"""

import dataclasses
import threading
import time
from collections.abc import Mapping
from typing import Self

import numpy as np
import tensorflow as tf

from serving.call import Call
from serving.status import cancelled, exhausted


class Request:
    """A request that waits; its rows may run in several batches."""

    def __init__(self, call: Call | None):
        self.call = call
        self.entered = time.perf_counter()
        self.parts: list[Rows] = []
        self.error: tf.errors.OpError | None = None
        self.taken = self.entered
        self._done = threading.Event()

    def remaining(self) -> float | None:
        """Seconds that the caller still waits."""
        return None if self.call is None else self.call.remaining()

    def ended(self) -> None:
        """Notes that one of its parts has ended; with the last one, the request has."""
        if all(part.over for part in self.parts):
            self._done.set()

    def wait(self) -> dict[str, np.ndarray]:
        """The answer, by the name of the tensor."""
        self._done.wait()
        if self.call is not None:
            self.call.add("run", time.perf_counter() - self.taken)
        if self.error is not None:  # an exception of its own: the error is raised in the thread of every request
            raise type(self.error)(None, None, self.error.message) from self.error
        if len(self.parts) == 1:
            return self.parts[0].answer
        return {name: np.concatenate([part.answer[name] for part in self.parts]) for name in self.parts[0].answer}


@dataclasses.dataclass(eq=False)
class Rows:
    """Some rows of a request: what they feed, and what has become of them."""

    request: Request
    feeds: Mapping[str, np.ndarray]
    rows: int
    answer: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    over: bool = False

    def split(self, sizes: list[int]) -> list[Self]:
        """The request's rows in parts of so many each."""
        ends = np.cumsum(sizes).tolist()
        self.request.parts = [
            type(self)(self.request, {name: array[end - size : end] for name, array in self.feeds.items()}, size)
            for size, end in zip(sizes, ends, strict=True)
        ]
        return self.request.parts

    def take(self, now: float) -> None:
        """Notes when the rows left the queue; those of a request that was split count with its first part."""
        if self is self.request.parts[0]:
            self.request.taken = now
            if self.request.call is not None:
                self.request.call.add("queue", now - self.request.entered)

    def awaited(self) -> bool:
        """Whether they have to be computed; otherwise the request is told why not."""
        call = self.request.call
        if call is not None and call.gone():
            self.end(cancelled())
        elif (left := self.request.remaining()) is not None and left <= 0:
            text = "Run() timeout exceeded while waiting in batching queue"
            self.end(exhausted(text))
        return not self.over

    def end(self, error: tf.errors.OpError | None = None) -> None:
        """Tells the request that there is an answer, or an error."""
        self.request.error = self.request.error or error
        self.over = True
        self.request.ended()
