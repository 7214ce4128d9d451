"""Which version is to be loaded or unloaded next: the rule by which one takes another's place.

Within lifecycle.py on the way SavedModel -> [server] -> client. The rule is TensorFlow Serving's
availability-preserving policy: what answers is unloaded once something else answers, and not before.
"""

import dataclasses
import enum
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from serving.servable import Servable
from serving.status import not_found


class Phase(enum.Enum):
    """How far a version has come."""

    NEW = enum.auto()
    LOADING = enum.auto()
    READY = enum.auto()
    UNLOADING = enum.auto()
    ENDED = enum.auto()
    FAILED = enum.auto()


@dataclasses.dataclass(eq=False)
class Version:
    """One version of a model.

    Attributes:
        name, number, path: which it is.
        aspired: whether it is wanted.
        phase: how far it has come.
        servable: what runs its requests; it takes new ones as long as it is here.
        requests: one token for each that is under way.
        given_up: set once it is wanted no more; a load that failed is not tried again.
    """

    name: str
    number: int
    path: Path
    aspired: bool = True
    phase: Phase = Phase.NEW
    servable: Servable | None = None
    requests: set[object] = dataclasses.field(default_factory=set)
    given_up: threading.Event = dataclasses.field(default_factory=threading.Event)

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.number}}}"

    @property
    def over(self) -> bool:
        """Whether nothing is left of it to take down."""
        return self.phase in (Phase.NEW, Phase.ENDED, Phase.FAILED)


def find(name: str, versions: Iterable[Version], number: int | None) -> tuple[Version, Servable]:
    """The version of a model that answers under a number; under none, the highest that answers.

    Raises:
        tf.errors.NotFoundError: there is none.
    """
    for version in sorted(versions, key=lambda version: -version.number):
        if version.servable is not None and number in (None, version.number):
            return version, version.servable
    request = f"Latest({name})" if number is None else f"Specific({name}, {number})"
    raise not_found(f"Servable not found for request: {request}")


def next_action(models: Iterable[Mapping[int, Version]]) -> tuple[Phase, Version] | None:
    """The next thing to do.

    Args:
        models: the versions of each model, by number.

    Returns:
        UNLOADING and the version to unload, LOADING and the one to load, or None. An unload of any model comes before
        a load of any other; of a model's versions the lowest is unloaded, and the highest loaded, first.
    """
    load = None
    for known in models:
        versions = sorted(known.values(), key=lambda version: version.number)
        aspired = [version for version in versions if version.aspired]
        leaving = [version for version in versions if not version.aspired and version.phase is Phase.READY]
        replaced = not aspired or any(version.phase is Phase.READY for version in aspired) or len(leaving) > 1
        if leaving and replaced:
            return Phase.UNLOADING, leaving[0]
        new = [version for version in aspired if version.phase is Phase.NEW]
        if new and load is None:
            load = Phase.LOADING, new[-1]
    return load
