"""What became of every version that a server has had: what GetModelStatus shows and a reload waits for.

Beside lifecycle.py on the way SavedModel -> [server] -> client. States, codes and texts are TensorFlow Serving's; a
version that has ended stays in the list.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Collection

import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving.status import code_name, going_down

_LOOK = 1.0  # seconds


@dataclasses.dataclass(frozen=True)
class _Event:
    moment: int
    state: ModelVersionStatus.State
    code: int
    text: str


class States:
    """The last state of each version, and the order in which they came."""

    def __init__(self, stop: threading.Event):
        """Nothing yet; `stop` ends every wait."""
        self._stop = stop
        self._changed = threading.Condition()
        self._moment = 0
        self._events: dict[str, dict[int, _Event]] = {}

    def publish(
        self, name: str, number: int, state: ModelVersionStatus.State, error: tf.errors.OpError | None = None
    ) -> None:
        """Notes that a version has come to a state, by an error if it ended by one."""
        with self._changed:
            self._moment += 1
            code, text = (0, "") if error is None else (error.error_code, error.message)
            self._events.setdefault(name, {})[number] = _Event(self._moment, state, code, text)
            self._changed.notify_all()

    def names(self) -> list[str]:
        """The models that have, or had, a version."""
        with self._changed:
            return sorted(self._events)

    def of(self, name: str) -> list[ModelVersionStatus]:
        """The state of every version of a model, the highest first; empty for a model that is not known."""
        with self._changed:
            events = sorted(self._events.get(name, {}).items(), reverse=True)
        statuses = []
        for number, event in events:
            status = ModelVersionStatus(version=number, state=event.state)
            status.status.error_code, status.status.error_message = event.code, event.text
            status.status.SetInParent()
            statuses.append(status)
        return statuses

    def available(self, name: str, number: int) -> bool:
        """Whether a version is AVAILABLE."""
        with self._changed:
            event = self._events.get(name, {}).get(number)
            return event is not None and event.state == ModelVersionStatus.AVAILABLE

    def now(self) -> int:
        """A moment to wait from."""
        with self._changed:
            return self._moment

    def wait(
        self, names: Collection[str], since: int, look: Callable[[Collection[str]], None] = lambda _names: None
    ) -> dict[tuple[str, int], str]:
        """Waits until a version of each model has become AVAILABLE or failed since a moment.

        Of a model with several versions the highest that has come so far decides, as in TensorFlow Serving.

        Args:
            names: of the models.
            since: what `now` returned.
            look: is called every second with those that are still waited for; what it raises ends the wait.

        Returns:
            The versions that failed, with their status as TensorFlow prints it.

        Raises:
            tf.errors.UnavailableError: the server goes down.
        """
        looked = time.monotonic()
        while undecided := self._wait_a_moment(names, since):
            if self._stop.is_set():
                raise going_down()
            if time.monotonic() - looked > _LOOK:
                look(undecided)
                looked = time.monotonic()
        with self._changed:
            decided = {name: self._decided(name, since) for name in sorted(names)}
        return {
            (name, found[0]): f"{code_name(found[1].code)}: {found[1].text}"
            for name, found in decided.items()
            if found is not None and found[1].state != ModelVersionStatus.AVAILABLE
        }

    def _wait_a_moment(self, names: Collection[str], since: int) -> list[str]:
        """Those that are undecided, after a while if there are any."""
        with self._changed:
            undecided = [name for name in sorted(names) if self._decided(name, since) is None]
            if undecided:
                self._changed.wait(timeout=0.1)  # notified by a state, but not when `stop` is set
            return undecided

    def _decided(self, name: str, since: int) -> tuple[int, _Event] | None:
        for number, event in sorted(self._events.get(name, {}).items(), reverse=True):
            if event.moment > since and (event.state == ModelVersionStatus.AVAILABLE or event.code):
                return number, event
        return None
