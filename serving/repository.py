"""The directories of the models on disk: which versions they hold, looked at again and again.

Between SavedModel and server: the exporter renames a finished version into `<base path>/<number>/`, and this module is
how the server comes to know of it. Rules and texts are those of TensorFlow Serving's file system source, but for one: a
base path that is away leaves its own model as it is, and not all of them.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tensorflow_serving.config.model_server_config_pb2 import ModelConfig

_MAX_VERSION = 2**63 - 1

logger = logging.getLogger(__name__)

Versions = Mapping[int, Path]


def versions(base_path: Path) -> dict[int, Path]:
    """The versions below a base path: every child whose name is a number from 0 to 2^63 - 1; "007" is version 7.

    A child need not be a directory: one that is a file is a version too, and its load fails.

    Raises:
        OSError: the base path cannot be listed.
    """
    found: dict[int, Path] = {}
    for child in sorted(base_path.iterdir()):
        if not (child.name.isascii() and child.name.isdigit() and int(child.name) <= _MAX_VERSION):
            continue
        if before := found.get(int(child.name)):
            logger.warning(
                "Duplicate version directories detected. Version %d will be loaded from %s, %s will be ignored.",
                int(child.name),
                child.name,
                before.name,
            )
        found[int(child.name)] = child
    return found


def wanted(model: ModelConfig) -> dict[int, Path]:
    """The versions of a model that are to be served: those on disk that its policy names.

    Raises:
        FileNotFoundError: the base path is not there; the text is TensorFlow Serving's.
        OSError: the base path cannot be listed.
    """
    base_path = Path(model.base_path)
    if not base_path.exists():
        text = f"Could not find base path {base_path} for servable {model.name} with error NOT_FOUND: "
        raise FileNotFoundError(f"{text}{base_path} not found")
    found = versions(base_path)
    policy = model.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            chosen = found
        case "specific":
            chosen = _specific(model.name, list(policy.specific.versions), found)
            if not policy.specific.versions:
                return chosen
        case _:
            count = max(1, policy.latest.num_versions)
            chosen = {number: found[number] for number in sorted(found)[-count:]}
    if not chosen:
        logger.warning("%s", nothing_found(model))
    return chosen


def nothing_found(model: ModelConfig) -> str:
    """What is said of a model none of whose versions is on disk."""
    return (
        f"No versions of servable {model.name} found under base path {model.base_path}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?"
    )


def _specific(name: str, numbers: list[int], found: Versions) -> dict[int, Path]:
    if not numbers:
        logger.warning("No specific versions requested for servable %s.", name)
    for number in numbers:
        if number not in found:
            logger.warning(
                "Version %d of servable %s, which was requested to be served as a 'specific' version in the servable's "
                "version policy, was not found in the file system",
                number,
                name,
            )
    return {number: found[number] for number in numbers if number in found}


class Repository:
    """The models that are followed on disk."""

    def __init__(self, want: Callable[[str, Versions], None], interval: float, stop: threading.Event):
        """Follows none yet.

        Args:
            want: called with a model's name and the versions to serve.
            interval: seconds between two looks; with 0 only `follow` makes it look.
            stop: ends the watch when it would look next; `wake` has it do so now.
        """
        self._want = want
        self._interval = interval
        self._stop = stop
        self._look = threading.Event()
        self._lock = threading.Lock()
        self._models: dict[str, ModelConfig] = {}

    def follow(self, models: Iterable[ModelConfig]) -> None:
        """Follows these models instead of those before; of one that is left out no version is wanted any more.

        A model that is new is looked at soon, a changed one with the next look.
        """
        followed = {model.name: model for model in models}
        with self._lock:
            for name in self._models.keys() - followed.keys():
                self._want(name, {})
            new = followed.keys() - self._models.keys()
            self._models = followed
        if new or not self._interval:
            self._look.set()

    def watch(self) -> None:
        """Looks at every model, again and again, until the stop.

        A base path that cannot be listed changes nothing, so a file system that is away for a moment unloads no model.
        One that holds no version is told as an empty mapping.
        """
        while not self._stop.is_set():
            self._look.wait(self._interval or None)
            if self._stop.is_set():
                return
            self._look.clear()
            with self._lock:
                models = list(self._models.values())
            for model in models:
                try:
                    self._look_at(model)
                except Exception:  # the other models, and the next look, go on
                    logger.critical("A defect of the server; %s stays as it is", model.name, exc_info=True)

    def wake(self) -> None:
        """Has the watch look now, or end if the stop is set."""
        self._look.set()

    def _look_at(self, model: ModelConfig) -> None:
        try:
            found = wanted(model)
        except OSError as error:
            logger.error("FileSystemStoragePathSource encountered a filesystem access error: %s", error)
            return
        with self._lock:
            # Not under the lock from the first: a file system that hangs would hold up whoever changes the models.
            if self._models.get(model.name) == model:
                self._want(model.name, found)
