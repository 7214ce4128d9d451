"""The runs that a checkpoint comes from: the one that wrote it, the one that wrote what this began with, and so on.

Beside the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A
checkpoint says of itself what it was trained with (its item `data`) and what it was made from (`source` in model.json);
those before it are found as far back as they lie where they lay then. A place may hold another checkpoint by now: what
is there counts if its space is the one that was begun with, for which all of its weights are read.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit22b.checkpoint import Checkpoints
from vit22b.description import FOLDER, Description, find_step, read_description
from vit22b.stored_layers import open_layers


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A run, as the checkpoint that it left tells it.

    Attributes:
        folder: of the checkpoint's step.
        description: its model.json.
        data: its item of that name: step, and where it was trained seed, batch, examples and recipe.
    """

    folder: Path
    description: Description
    data: Mapping[str, Any]

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The settings that decided what was learnt; empty where weights were imported."""
        return self.data.get("recipe") or {}

    @property
    def from_nothing(self) -> bool:
        """Whether it began with random weights: only such a run has a size to choose."""
        return "size" in self.recipe

    @property
    def locked(self) -> bool:
        """Whether it was locked-image tuning, which alone has a vocabulary to choose."""
        return "vocabulary" in self.recipe


@dataclasses.dataclass(frozen=True)
class Lineage:
    """Where a checkpoint comes from.

    Attributes:
        runs: the last one first.
        missing: space_id of the checkpoint that the first run began with, where that is not there any more, or another
            one in its place.
    """

    runs: tuple[TrainingRun, ...]
    missing: str | None = None


def lineage(checkpoint: Path) -> Lineage:
    """Goes back from a checkpoint to random weights, to an import, or to what is not there.

    Args:
        checkpoint: a work directory (its latest step is taken), or one step in it.

    Raises:
        ValueError: there is no such checkpoint.
    """
    workdir, step = find_step(checkpoint)
    with Checkpoints(workdir) as checkpoints:
        data = checkpoints.data(step)
    folder = workdir / FOLDER / str(step)
    run = TrainingRun(folder, read_description(folder), data)
    source = run.description.source
    if run.from_nothing or not run.recipe or source is None:
        return Lineage((run,))
    before = Path(source["checkpoint"])
    if not _is_there(before, source["space_id"]):
        return Lineage((run,), source["space_id"])
    earlier = lineage(before)
    return Lineage((run, *earlier.runs), earlier.missing)


def _is_there(checkpoint: Path, space_id: str) -> bool:
    try:
        return open_layers(checkpoint).space_id == space_id
    except ValueError:  # none of ours is there
        return False
