"""Where every request passes: let in, answered, recorded.

Between the wire and the answers on the way SavedModel -> server -> client. Who may ask is guard.py's to say and how
many at once admission.py's; metrics, logs, traces and the status page are observers.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import tensorflow as tf

from serving.admission import Admission
from serving.call import Call, Reason
from serving.guard import Guard
from serving.status import code_name

T = TypeVar("T")

# What costs time and memory. The rest is not bounded: a probe that asks for a model's state is to be answered by a
# server that is full, or it would be taken for dead.
_WORK = frozenset({"Predict", "Classify", "Regress", "MultiInference"})


class Observer(Protocol):
    """What keeps an account of requests. It is called by many threads, and raises nothing."""

    def end(self, call: Call, status: str, seconds: float) -> None:
        """A request has been answered: with which status (OK, NOT_FOUND), after how many seconds."""


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
        """Answers a call.

        Args:
            call: the request, which has been admitted.
            answer: what is done for it.

        Raises:
            tf.errors.OpError: what the caller gets in place of the answer.
        """
        status = tf.errors.INTERNAL  # what the caller sees of a defect of ours
        try:
            result = self._work(call, answer)
            status = tf.errors.OK
            return result
        except tf.errors.OpError as error:
            status = error.error_code
            raise
        finally:
            self._end(call, status)

    def admit(self, call: Call) -> None:
        """Refuses a call, or gives it a place, and returns at once.

        It comes before the call's body, and before a thread is free: what has been admitted has to be served, refused
        or dropped.

        Raises:
            tf.errors.OpError: UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED. The call has ended.
        """
        reason: Reason = "key"
        try:
            self._guard.check(call)
            reason = "pending"
            if call.api in _WORK:
                self.admission.enter()
        except tf.errors.OpError as error:
            self.refuse(call, error, reason)
            raise
        call.admitted = time.perf_counter()

    def refuse(self, call: Call, error: tf.errors.OpError, reason: Reason) -> None:
        """Keeps account of a call that is refused, be it admitted or not; `error` is what the caller gets."""
        call.refused = reason
        if call.admitted is None:
            self._tell(call, error.error_code)
        else:
            self._end(call, error.error_code)

    def drop(self, call: Call) -> None:
        """Gives up a call that was admitted and will not be served, because its caller has gone."""
        self._end(call, tf.errors.CANCELLED)

    def _work(self, call: Call, answer: Callable[[], T]) -> T:
        if call.api not in _WORK:
            return answer()
        assert call.admitted is not None, "the call has not been admitted"
        arrived = call.admitted + call.seconds.get("receive", 0.0)
        call.add("queue", max(0.0, time.perf_counter() - arrived))
        call.check()
        self.admission.begin()
        try:
            return answer()
        finally:
            self.admission.done()

    def _end(self, call: Call, status: int) -> None:
        if call.api in _WORK:
            self.admission.leave()
        self._tell(call, status)

    def _tell(self, call: Call, status: int) -> None:
        seconds = time.perf_counter() - call.began
        for observer in self._observers:
            observer.end(call, code_name(status), seconds)
