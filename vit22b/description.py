"""The description of a trained model, model.json, and how a checkpoint is found.

Beside the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A step
of a work directory that does not describe itself is refused: nobody could say what its parameters belong to.
"""

import dataclasses
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from vit22b.config import ModelConfig
from vit22b.fields import from_fields
from vit22b.preprocess import Preprocess

FOLDER = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Description:
    """What model.json holds.

    Attributes:
        config: of the model.
        preprocess: of its images.
        labels: names of the head's classes.
        tokenizer: tokenizer.json of a model with a text tower.
        source: for parameters that were taken over, the checkpoint's path and its space_id; of a model that learnt from
            another one, what `teacher` that was and its space_id.
        git_revision: of the code that trained it, or None outside a checkout.
    """

    config: ModelConfig
    preprocess: Preprocess
    labels: tuple[str, ...] = ()
    tokenizer: str | None = None
    source: dict[str, str] | None = None
    git_revision: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of to_json.

        Raises:
            ValueError: a field is missing or unknown.
        """
        if missing := {"config", "preprocess"} - set(values):
            raise ValueError(f"model.json lacks {', '.join(sorted(missing))}")
        config = ModelConfig.from_json(values["config"])
        return from_fields(
            cls, {**values, "config": config, "preprocess": from_fields(Preprocess, values["preprocess"])}
        )


def git_revision() -> str | None:
    """The revision of this code, with "-dirty" behind it where files were changed; None outside its git checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # an installed package may lie in the checkout of something else
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def find_step(path: Path | str) -> tuple[Path, int]:
    """Resolves what a user names as a checkpoint.

    Args:
        path: a work directory (its latest step is taken) or `<workdir>/checkpoints/<step>`.

    Returns:
        The work directory and the step.

    Raises:
        ValueError: there is no checkpoint, or it has no model.json.
    """
    path = Path(path).absolute()
    if path.name.isdigit() and path.parent.name == FOLDER:
        workdir, step = path.parent.parent, int(path.name)
    else:
        workdir = path
        steps = [int(p.name) for p in (path / FOLDER).glob("*") if p.name.isdigit()]
        if not steps:
            raise ValueError(
                f"no checkpoint in {path}: expected a folder {FOLDER}/<step>/ as train/pretrain.py and train/lit.py "
                "write it; name their --workdir, or one step in it"
            )
        step = max(steps)
    description = workdir / FOLDER / str(step) / "model" / "model.json"
    if not description.is_file():
        raise ValueError(
            f"{description.parent.parent} is no checkpoint of vit22b: it has no model/model.json, which says what "
            "model the parameters belong to; name a folder that train/pretrain.py or train/lit.py wrote"
        )
    return workdir, step


def read_description(path: Path | str) -> Description:
    """Reads model.json of a work directory's latest step, or of the step that is named.

    Raises:
        ValueError: see find_step; or the file is damaged.
    """
    workdir, step = find_step(path)
    file = workdir / FOLDER / str(step) / "model" / "model.json"
    try:
        return Description.from_json(json.loads(file.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
