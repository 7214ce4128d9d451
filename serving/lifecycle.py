"""Which versions of which models answer, and how one takes the other's place.

The heart of the server: repository.py says which versions there should be, answers.py asks for one to run a request
on, and this module loads the new before it unloads the old, keeps a version until its requests have ended, and
remembers what became of each. One thread calls `aspire`; any number call the rest.
"""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving.repository import Versions
from serving.saved_model import file_error
from serving.servable import Servable

logger = logging.getLogger(__name__)

Load = Callable[[str, int, Path], Servable]


@dataclasses.dataclass(frozen=True)
class Retries:
    """How often a load that failed is tried again, after how many seconds, and after which errors it never is."""

    count: int = 5
    interval: float = 60.0
    vain: tuple[type[tf.errors.OpError], ...] = ()


@dataclasses.dataclass
class _Version:
    name: str
    number: int
    state: ModelVersionStatus.State = ModelVersionStatus.START
    error: tf.errors.OpError | None = None
    servable: Servable | None = None  # takes new requests as long as it is here
    requests: set[object] = dataclasses.field(default_factory=set)  # one token for each that is under way

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.number}}}"


class Lifecycle:
    """The versions that a server knows, and their states.

    A version goes START, LOADING, AVAILABLE, UNLOADING, END. One whose load fails ends with its error and is never
    tried again; one that was unloaded may come back.
    """

    def __init__(self, load: Load, retries: Retries, stop: threading.Event):
        """No versions yet.

        Args:
            load: makes a version ready to answer, warm-up and all. Whatever it raises is that version's failure alone.
            retries: what to do when it raises.
            stop: ends every wait within `aspire`, so that a server that goes down waits for no retry.
        """
        self._load = load
        self._retries = retries
        self._stop = stop
        self._versions: dict[str, dict[int, _Version]] = {}
        self._changed = threading.Condition()

    def aspire(self, name: str, versions: Versions) -> None:
        """Makes these versions of a model the ones that are served, and returns when that is done or has failed.

        Nothing is unloaded before one of them is AVAILABLE; with no versions, all are unloaded.
        """
        for number, path in sorted(versions.items()):
            known = self._versions.get(name, {}).get(number)
            if known is None or (known.state == ModelVersionStatus.END and known.error is None):
                self._bring_up(name, number, path)
        serving = [version for version in self._of(name) if version.state == ModelVersionStatus.AVAILABLE]
        if not versions or any(version.number in versions for version in serving):
            for version in serving:
                if version.number not in versions:
                    self._take_down(version)

    @contextlib.contextmanager
    def lease(self, name: str, number: int | None = None) -> Iterator[Servable]:
        """A version to run one request on; it stays loaded until the context ends.

        Args:
            name: of the model.
            number: of the version; the highest that answers if None.

        Raises:
            tf.errors.NotFoundError: no such version answers.
        """
        token = object()
        with self._changed:
            version, servable = self._find(name, number)
            version.requests.add(token)
        try:
            yield servable
        finally:
            with self._changed:
                version.requests.remove(token)
                self._changed.notify_all()

    def failures(self) -> str:
        """The versions whose load has failed, in the words of TensorFlow Serving; empty if there are none."""
        failed = [version for name in list(self._versions) for version in self._of(name) if version.error is not None]
        if not failed:
            return ""
        causes = "".join(f"{{{version} due to error: {status_text(version.error)}}}, " for version in failed)
        return f"{len(failed)} servable(s) did not become available: {{{causes}}}"

    def status(self, name: str) -> list[ModelVersionStatus]:
        """What became of every version that a model has had, the highest first; empty for a model that is not known."""
        statuses = []
        for version in self._of(name):
            status = ModelVersionStatus(version=version.number, state=version.state)
            status.status.SetInParent()
            if version.error is not None:
                status.status.error_code = version.error.error_code
                status.status.error_message = version.error.message
            statuses.append(status)
        return statuses

    def _of(self, name: str) -> list[_Version]:
        with self._changed:
            return sorted(self._versions.get(name, {}).values(), key=lambda version: -version.number)

    def _find(self, name: str, number: int | None) -> tuple[_Version, Servable]:
        for version in self._of(name):
            if version.servable is not None and number in (None, version.number):
                return version, version.servable
        request = f"Latest({name})" if number is None else f"Specific({name}, {number})"
        raise tf.errors.NotFoundError(None, None, f"Servable not found for request: {request}")

    def _bring_up(self, name: str, number: int, path: Path) -> None:
        version = _Version(name, number)
        with self._changed:
            self._versions.setdefault(name, {})[number] = version
        logger.info("Loading servable version %s", version)
        version.state = ModelVersionStatus.LOADING
        try:
            servable = self._load_with_retries(version, path)
        except tf.errors.OpError as error:
            version.error = error
            version.state = ModelVersionStatus.END
            return
        with self._changed:
            version.servable = servable
            before = {request for other in self._versions[name].values() for request in other.requests}
        logger.info("Successfully loaded servable version %s", version)
        # It answers from here on. As in TensorFlow Serving, it is reported AVAILABLE, and the version it replaces
        # refuses new requests, once the requests that were under way at this moment have ended.
        self._wait_for_end_of(before, self._of(name))
        version.state = ModelVersionStatus.AVAILABLE

    def _load_with_retries(self, version: _Version, path: Path) -> Servable:
        tries = 1 + max(0, self._retries.count)
        for attempt in range(1, tries + 1):
            try:
                return self._load_once(version, path)
            except tf.errors.OpError as error:
                logger.error("Loading servable: %s failed: %s", version, status_text(error))
                last = attempt == tries or isinstance(error, self._retries.vain)
                if last or self._stop.wait(self._retries.interval):
                    raise
                logger.info("Retrying of loading servable: %s, retry %d of %d", version, attempt, tries - 1)
        raise AssertionError("the last attempt returns or raises")

    def _load_once(self, version: _Version, path: Path) -> Servable:
        """One attempt; whatever goes wrong becomes a status, so that it cannot end the thread that calls `aspire`."""
        try:
            return self._load(version.name, version.number, path)
        except tf.errors.OpError:
            raise
        except OSError as error:
            raise file_error(error) from error
        except Exception as error:
            logger.exception("Loading servable: %s: a defect of the server", version)
            raise tf.errors.InternalError(None, None, f"{type(error).__name__}: {error}") from error

    def _take_down(self, version: _Version) -> None:
        logger.info("Quiescing servable version %s", version)
        with self._changed:
            servable, version.servable = version.servable, None
            before = set(version.requests)
        if servable is None or not self._wait_for_end_of(before, [version]):
            return
        logger.info("Done quiescing servable version %s", version)
        version.state = ModelVersionStatus.UNLOADING
        logger.info("Unloading servable version %s", version)
        servable.close()
        version.state = ModelVersionStatus.END
        logger.info("Done unloading servable version %s", version)

    def _wait_for_end_of(self, requests: set[object], versions: Iterable[_Version]) -> bool:
        """Waits until none of the requests is under way; False if the server went down before."""
        with self._changed:
            while not self._stop.is_set() and any(requests & version.requests for version in versions):
                self._changed.wait(timeout=0.1)  # notified at the end of a request, but not when `stop` is set
            return not any(requests & version.requests for version in versions)


def status_text(error: tf.errors.OpError) -> str:
    """A status as TensorFlow prints it: the code's name and the text."""
    return f"{_CODES.get(error.error_code, 'UNKNOWN')}: {error.message}"


_CODES = {value: name for name, value in vars(tf.errors).items() if name.isupper() and isinstance(value, int)}
