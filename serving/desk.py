"""Where every request passes: let in, answered, recorded.

Between the wire and the answers on the way SavedModel -> server -> client. Who may ask is guard.py's to say and how
many at once admission.py's; metrics, logs, traces and the status page are observers.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import tensorflow as tf

from serving.admission import Admission
from serving.call import Call
from serving.guard import Guard
from serving.states import code_name

T = TypeVar("T")

# What costs time and memory. The rest is not bounded: a probe that asks for a model's state is to be answered by a
# server that is full, or it would be taken for dead.
_WORK = frozenset({"Predict", "Classify", "Regress", "MultiInference"})


class Observer(Protocol):
    """What keeps an account of requests. Both methods are called by many threads, and raise nothing."""

    def begin(self, call: Call) -> None:
        """A request has come in."""

    def end(self, call: Call, status: str, seconds: float) -> None:
        """It has been answered: with which status (OK, NOT_FOUND), after how many seconds."""


class Desk:
    """Lets requests in and keeps account of them."""

    def __init__(
        self, *, admission: Admission | None = None, guard: Guard | None = None, observers: Sequence[Observer] = ()
    ):
        """Lets in whom the guard knows, as many as the admission takes, and tells the observers of each."""
        self.admission = admission or Admission()
        self._guard = guard or Guard()
        self._observers = tuple(observers)

    def serve(self, call: Call, answer: Callable[[], T]) -> T:
        """Answers a call, which may have been admitted before.

        Args:
            call: the request.
            answer: what is done for it, once it is its turn.

        Raises:
            tf.errors.OpError: what the caller gets in place of the answer.
        """
        if call.admitted is None:
            self.admit(call)
        status = tf.errors.INTERNAL  # what the caller sees of a defect of ours
        try:
            with _Turn(self.admission if call.api in _WORK else None, call):
                result = answer()
            status = tf.errors.OK
            return result
        except tf.errors.OpError as error:
            status = error.error_code
            raise
        finally:
            self._end(call, status)

    def admit(self, call: Call) -> None:
        """Refuses a call, or gives it a place in the queue, and returns at once.

        `serve` does this too. It is for a wire that queues calls before a thread serves them: what has been admitted
        has to be served or dropped.

        Raises:
            tf.errors.OpError: UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED.
        """
        for observer in self._observers:
            observer.begin(call)
        try:
            self._guard.check(call)
            if call.api in _WORK:
                self.admission.enter()
        except tf.errors.OpError as error:
            self._tell(call, error.error_code)
            raise
        call.admitted = time.perf_counter()

    def drop(self, call: Call) -> None:
        """Gives up a call that was admitted and will not be served, because its caller has gone."""
        self._end(call, tf.errors.CANCELLED)

    def _end(self, call: Call, status: int) -> None:
        if call.api in _WORK:
            self.admission.leave()
        self._tell(call, status)

    def _tell(self, call: Call, status: int) -> None:
        seconds = time.perf_counter() - call.began
        for observer in self._observers:
            observer.end(call, code_name(status), seconds)


class _Turn:
    """The time in which a call is worked on; entering waits for it."""

    def __init__(self, admission: Admission | None, call: Call):
        self._admission = admission
        self._call = call

    def __enter__(self) -> None:
        call = self._call
        if self._admission is None:
            return
        try:
            self._admission.wait(call)
        finally:
            call.add("queue", time.perf_counter() - (call.admitted or call.began))

    def __exit__(self, *_raised: object) -> None:
        if self._admission is not None:
            self._admission.done()
