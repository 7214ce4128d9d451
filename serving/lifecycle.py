"""Which versions of which models answer, and how one takes the other's place.

The heart of the server: repository.py says which versions there should be, answers.py asks for one to run a request
on, and this module loads the new before it unloads the old, keeps a version until its requests have ended, and
remembers what became of each. The rules, and what happens when several of them meet, are those of TensorFlow Serving's
aspired versions and of its availability-preserving policy.
"""

import contextlib
import logging
import threading
from collections.abc import Collection, Iterable, Iterator
from concurrent import futures

import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving import memory
from serving.labels import Labels
from serving.loading import Load, Retries, executor, load_with_retries
from serving.repository import Versions
from serving.servable import Servable
from serving.states import States
from serving.status import status_text
from serving.succession import Phase, Version, find, next_action

_PACE = 0.1  # seconds; how soon at the latest something that nobody is told of is seen, such as `stop`

logger = logging.getLogger(__name__)


class Lifecycle:
    """The versions that a server knows.

    A version goes START, LOADING, AVAILABLE, UNLOADING, END. One whose load fails ends with its error, and is tried
    again only after the model has served without it.
    """

    def __init__(self, load: Load, retries: Retries, stop: threading.Event, unload_threads: int = 0):
        """No versions yet.

        Args:
            load: makes a version ready to answer, warm-up and all. Whatever it raises is that version's failure alone.
            retries: what to do when it raises.
            stop: ends every wait, so that a server that goes down waits for no retry.
            unload_threads: how many versions are unloaded at once; with 0 the thread that manages does it, and does
                nothing else meanwhile. Loads begin so too; see `load_with`.
        """
        self.labels = Labels()
        self.states = States(stop)
        self._load = load
        self._retries = retries
        self._stop = stop
        self._changed = threading.Condition()
        self._versions: dict[str, dict[int, Version]] = {}
        self._wanted: dict[str, list[Versions]] = {}
        self._work = threading.Event()  # there may be something to manage
        self._loaders = executor(0)
        self._unloaders = executor(unload_threads)

    def load_with(self, threads: int) -> None:
        """Loads that many versions at once from now on, and waits for the loads that other threads have begun.

        With 0 the thread that manages loads, one version after the other, and does nothing else while one retries.
        """
        with self._changed:
            before, self._loaders = self._loaders, executor(threads)
        if before is not None:
            before.shutdown()

    def want(self, name: str, versions: Versions) -> None:
        """Makes these versions of a model the ones to serve; `manage` brings it about.

        Nothing is unloaded before one of them is AVAILABLE; with no versions, all are unloaded. As in TensorFlow
        Serving, a wish that names a version which is on its way out waits until that has ended.
        """
        with self._changed:
            wishes = self._wanted.setdefault(name, [])
            # The last wish counts, but a model that was to be unloaded is, though it is wanted again by now.
            if wishes and (wishes[-1] or not versions):
                wishes.pop()
            wishes.append(versions)
        self._work.set()

    def manage(self) -> None:
        """Loads and unloads what is wanted, until the server goes down."""
        while not self._stop.is_set():
            self._work.clear()
            try:
                acted = self.step()
            except Exception:  # the other models go on
                logger.critical("A defect of the server; the version stays as it is", exc_info=True)
                acted = False
            if not acted:
                self._work.wait(timeout=_PACE)

    def step(self) -> bool:
        """Takes in what is wanted and does the next thing that follows; False if there is nothing to do now.

        For one thread at a time, the one that manages.
        """
        with self._changed:
            for name in list(self._versions):
                self._forget(name)
            for name in list(self._wanted):
                self._take_in(name)
            action = next_action(self._versions.values())
            if action is None:
                return False
            phase, version = action
            version.phase = phase
            loads = phase is Phase.LOADING
            act, threads = (self._bring_up, self._loaders) if loads else (self._take_down, self._unloaders)
            if threads is not None:
                threads.submit(act, version).add_done_callback(_tell_of_defect)
        if threads is None:
            act(version)
        return True

    @contextlib.contextmanager
    def lease(self, name: str, number: int | None = None, label: str | None = None) -> Iterator[Servable]:
        """A version to run one request on; it stays loaded until the context ends.

        Args:
            name: of the model.
            number: of the version; the highest that answers if neither it nor a label is given.
            label: of the version, instead of its number.

        Raises:
            tf.errors.NotFoundError: no such version answers.
            tf.errors.InvalidArgumentError: the model has no such label.
        """
        if label is not None:
            number = self.labels.version(name, label)
        token = object()
        with self._changed:
            version, servable = find(name, self._versions.get(name, {}).values(), number)
            version.requests.add(token)
        try:
            yield servable
        finally:
            with self._changed:
                version.requests.remove(token)
                self._changed.notify_all()

    def expects(self, name: str) -> bool:
        """Whether a version of a model is on its way up or down, or is to be."""
        with self._changed:
            wishes, versions = self._wanted.get(name, []), self._versions.get(name, {})
            return any(wishes) or any(version.aspired or not version.over for version in versions.values())

    def status(self, name: str) -> list[ModelVersionStatus]:
        """What became of every version that a model has had, the highest first; empty for a model that is not known."""
        return self.states.of(name)

    def names(self) -> list[str]:
        """The models that have, or had, a version."""
        return self.states.names()

    def _forget(self, name: str) -> None:
        """Drops the versions that have ended and are not wanted, so that they can be wanted again."""
        versions = self._versions.pop(name)
        kept = {number: version for number, version in versions.items() if version.aspired or not version.over}
        if kept:
            self._versions[name] = kept

    def _take_in(self, name: str) -> None:
        wanted, known = self._wanted[name][0], self._versions.get(name, {})
        if any(number in known and not known[number].aspired for number in wanted):
            return  # wanted again while on its way out
        self._wanted[name].pop(0)
        if not self._wanted[name]:
            del self._wanted[name]
        for number, version in known.items():
            if number not in wanted:
                version.aspired = False
                version.given_up.set()
        for number, path in wanted.items():
            if number not in known:
                self._versions.setdefault(name, {})[number] = Version(name, number, path)
                self.states.publish(name, number, ModelVersionStatus.START)

    def _bring_up(self, version: Version) -> None:
        self.states.publish(version.name, version.number, ModelVersionStatus.LOADING)
        logger.info("Loading servable version %s", version)
        try:
            servable = load_with_retries(
                lambda: self._load(version.name, version.number, version.path),
                str(version),
                self._retries,
                version.given_up,
                self._stop,
            )
            if version.given_up.is_set():
                servable.close()
                raise tf.errors.CancelledError(None, None, "Loading of servable cancelled")
        except tf.errors.OpError as error:
            self.states.publish(version.name, version.number, ModelVersionStatus.END, error)
            logger.error("Servable %s cannot be loaded: %s", version, status_text(error))
            self._enter(version, Phase.FAILED)
            return
        with self._changed:
            version.servable = servable
            siblings = list(self._versions[version.name].values())
            before = {request for other in siblings for request in other.requests}
        logger.info("Successfully loaded servable version %s", version)
        # It answers from here on. As in TensorFlow Serving, it is reported AVAILABLE, and the version it replaces
        # refuses new requests, once the requests that were under way at this moment have ended.
        self._wait_for_end_of(before, siblings)
        self.states.publish(version.name, version.number, ModelVersionStatus.AVAILABLE)
        self._enter(version, Phase.READY)

    def _take_down(self, version: Version) -> None:
        logger.info("Quiescing servable version %s", version)
        self.states.publish(version.name, version.number, ModelVersionStatus.UNLOADING)
        with self._changed:
            servable, version.servable = version.servable, None
            before = set(version.requests)
        if servable is None or not self._wait_for_end_of(before, [version]):
            return
        logger.info("Done quiescing servable version %s", version)
        logger.info("Unloading just-loaded servable version %s", version)
        servable.close()
        memory.give_back()
        logger.info("Done unloading servable version %s", version)
        self.states.publish(version.name, version.number, ModelVersionStatus.END)
        self._enter(version, Phase.ENDED)

    def _enter(self, version: Version, phase: Phase) -> None:
        with self._changed:
            version.phase = phase
        self._work.set()

    def _wait_for_end_of(self, requests: Collection[object], versions: Iterable[Version]) -> bool:
        """Waits until none of the requests is under way; False if the server went down before."""
        requests = set(requests)
        with self._changed:
            while not self._stop.is_set() and any(requests & version.requests for version in versions):
                self._changed.wait(timeout=_PACE)  # notified at the end of a request, but not when `stop` is set
            return not any(requests & version.requests for version in versions)


def _tell_of_defect(done: futures.Future[None]) -> None:
    """What a thread of these raises is no failure of a version, and would not be seen otherwise."""
    if error := done.exception():
        logger.critical("A defect of the server; the version stays as it is", exc_info=error)
