"""Runs protocols on sets, one after the other, so that what goes wrong with one is told and hides no other.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
import difflib
import time
from collections.abc import Sequence
from pathlib import Path

from train.evaluation_sets.reading import SET_FILE, EvaluationSet, read_set
from train.suite.context import Context
from train.suite.outcome import CannotRun, Outcome
from train.suite.protocol import Protocol


@dataclasses.dataclass(frozen=True)
class Task:
    """One protocol on one set."""

    protocol: Protocol
    data: EvaluationSet

    def __str__(self) -> str:
        return f"{self.protocol.id} on {self.data.name}"


@dataclasses.dataclass(frozen=True)
class Ran:
    """What came of a task.

    Attributes:
        task: which.
        outcomes: its rows and plots; those from before it ended, where it did not come to its end.
        seconds: it took.
        cannot: why tower or set have not what it needs, or None.
        failed: what is wrong with the set or the model, or None.
    """

    task: Task
    outcomes: tuple[Outcome, ...]
    seconds: float
    cannot: str | None = None
    failed: str | None = None


def find_sets(folder: Path, names: Sequence[str] = ()) -> tuple[EvaluationSet, ...]:
    """The sets in a folder, or the one that it is, sorted by name.

    Args:
        folder: of sets, or a set.
        names: of those that are wanted; all if empty.

    Raises:
        ValueError: there is none, one is broken or has the name of another, or a name is none of them.
    """
    folders = (
        [folder] if (folder / SET_FILE).is_file() else sorted(path.parent for path in folder.glob(f"*/{SET_FILE}"))
    )
    if not folders:
        raise ValueError(
            f"{folder} {'holds no set' if folder.is_dir() else 'is no folder'}; expected folders with a {SET_FILE}, as "
            "train/evaluation_data.py makes them"
        )
    found: dict[str, EvaluationSet] = {}
    for each in map(read_set, folders):
        if each.name in found:
            raise ValueError(f"{each.folder} and {found[each.name].folder} are both named {each.name!r}; rename one")
        found[each.name] = each
    return tuple(found[name] for name in chosen("--sets", names, list(found)))


def chosen(flag: str, names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those of the known names that are asked for, in their own order; all if none are.

    Raises:
        ValueError: a name is not known; the message has the nearest.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"{flag} {name} is not among {', '.join(known)}.{hint}")
    return [name for name in known if not names or name in names]


def tasks(protocols: Sequence[Protocol], sets: Sequence[EvaluationSet]) -> tuple[Task, ...]:
    """Every protocol on every set that it has something to say of, in the protocols' order."""
    return tuple(
        Task(protocol, data)
        for protocol in protocols
        for data in sets
        if data.kind == protocol.kind and protocol.asks(data)
    )


def run(context: Context, task: Task) -> Ran:
    """Runs one task; a set or a model that does not fit is told in what is returned."""
    begin = time.monotonic()
    outcomes: list[Outcome] = []
    cannot = failed = None
    try:
        for outcome in task.protocol.runs(context, task.data):
            outcomes.append(outcome)  # noqa: PERF402 (what came before an error is kept)
    except CannotRun as missing:
        cannot = str(missing)
    # A training has diverged; or a disk or a memory is full, which may do for the others.
    except (ValueError, FloatingPointError, OSError, MemoryError) as error:
        failed = str(error) or repr(error)
    return Ran(task, tuple(outcomes), time.monotonic() - begin, cannot, failed)
