"""Checkpoints: sharded, self-describing, restored onto any mesh.

Between train state and SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. A step lies in `<workdir>/checkpoints/<step>/` with the items

    params      the parameters' tree, the same whatever mesh wrote it
    opt_state   the optimizer's state
    data        {"step", "seed"}: where the input stands
    model       model.json: everything that is needed to use the parameters (see Description)

Orbax does the work. What is added here: a step that is not self-describing is refused, and trees are compared by name
and shape before anything is read, since a restore can otherwise fill a part of a model without a word.
"""

import dataclasses
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from vit22b.config import ModelConfig, Preprocess, from_fields
from vit22b.model import Params, abstract
from vit22b.sharding import param_shardings, with_shardings
from vit22b.space import space_id

FOLDER = "checkpoints"
# One chunk of a leaf on disk. Orbax's own choice is the whole leaf, all L layers, which no reader can take in slices.
CHUNK_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Description:
    """What model.json holds.

    Attributes:
        config: of the model.
        preprocess: of its images.
        labels: names of the head's classes.
        tokenizer: tokenizer.json of a model with a text tower.
        source: for parameters that were taken over, the checkpoint's path and its space_id.
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


class Checkpoints:
    """The checkpoints of one work directory; use it as a context manager, which waits for writes under way."""

    def __init__(self, workdir: Path | str, keep: int | None = None) -> None:
        """Opens a work directory, which need not exist before the first save.

        Args:
            workdir: holds the folder `checkpoints`.
            keep: how many of the latest steps to keep; None for all.
        """
        self.folder = Path(workdir).absolute() / FOLDER
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers={
                "params": ocp.PyTreeCheckpointHandler(),
                "opt_state": ocp.PyTreeCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
                "model": ocp.JsonCheckpointHandler(filename="model.json"),
            },
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=False),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The latest step, or None."""
        return self._manager.latest_step()

    def save(
        self, step: int, params: Mapping[str, Any], opt_state: Any, data: Mapping[str, Any], model: Description
    ) -> None:
        """Writes one step in the background; it appears under its number once it is whole.

        Args:
            step: the number of steps taken.
            params, opt_state: trees of arrays, on whatever mesh.
            data: where the input stands, as plain values.
            model: becomes model.json.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=_save(params),
                opt_state=_save(opt_state),
                data=ocp.args.JsonSave(dict(data)),
                model=ocp.args.JsonSave(model.to_json()),
            ),
            force=True,
        )

    def restore(self, step: int, params: Any, opt_state: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Reads a whole state.

        Args:
            step: which.
            params, opt_state: trees of jax.ShapeDtypeStruct; their shardings say where the arrays shall lie.

        Returns:
            params, opt_state and data as they were saved.

        Raises:
            ValueError: the checkpoint's trees are others; the message lists the differences by name.
        """
        targets = {"params": params, "opt_state": opt_state}
        for item, target in targets.items():
            self._compare(step, item, target)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                data=ocp.args.JsonRestore(), **{item: _restore(target) for item, target in targets.items()}
            ),
        )
        return restored["params"], restored["opt_state"], restored["data"]

    def restore_params(self, step: int, params: Any) -> Any:
        """Reads the parameters alone.

        Args:
            step: which.
            params: tree of jax.ShapeDtypeStruct, with shardings or, for the first device, without.

        Raises:
            ValueError: the checkpoint's tree is another; the message lists the differences by name.
        """
        self._compare(step, "params", params)
        return self._manager.restore(step, args=ocp.args.Composite(params=_restore(params)))["params"]

    def _compare(self, step: int, item: str, target: Any) -> None:
        saved = _shapes(self._manager.item_metadata(step)[item].tree)
        wanted = _shapes(target)
        lines = [f"  missing in the checkpoint: {name} {wanted[name]}" for name in sorted(wanted.keys() - saved.keys())]
        lines += [f"  only in the checkpoint: {name} {saved[name]}" for name in sorted(saved.keys() - wanted.keys())]
        lines += [
            f"  {name}: {saved[name]} in the checkpoint, {wanted[name]} in the model"
            for name in sorted(saved.keys() & wanted.keys())
            if saved[name] != wanted[name]
        ]
        if lines:
            raise ValueError(
                f"{item} of {self.folder / str(step)} does not fit the model:\n" + "\n".join(lines) + "\n"
                "continue with the settings that wrote it, or give another --workdir"
            )


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model, read from a checkpoint.

    Attributes:
        description: what model.json says.
        step: of the checkpoint.
        params: its parameters' tree, float32.
    """

    description: Description
    step: int
    params: Params

    @property
    def space_id(self) -> str:
        """The name of the space that it embeds in; reads every parameter of the towers."""
        of = self.description
        return space_id(self.params, of.preprocess, of.config.image.pooling, of.tokenizer)


def load(path: Path | str, mesh: Mesh | None = None) -> Trained:
    """Reads the description and the parameters of a checkpoint.

    Args:
        path: a work directory (its latest step is taken), or one step in it.
        mesh: where the parameters shall lie, by the rules of vit22b/sharding.py; the first device if None.

    Raises:
        ValueError: see find_step; or the parameters are not those of the model that is described.
    """
    workdir, step = find_step(path)
    description = read_description(path)
    _, target = abstract(description.config)
    if mesh is not None:
        target = with_shardings(target, param_shardings(target, mesh))
    with Checkpoints(workdir) as checkpoints:
        return Trained(description, step, checkpoints.restore_params(step, target))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """{"a/b/0": shape} of a tree of whatever containers; what has no shape is a placeholder of Orbax's, not a leaf."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = {"/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in p): v for p, v in paths}
    return {name: tuple(leaf.shape) for name, leaf in names.items() if getattr(leaf, "shape", None) is not None}


def _save(tree: Any) -> ocp.args.PyTreeSave:
    return ocp.args.PyTreeSave(tree, save_args=jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), tree))


def _restore(target: Any) -> ocp.args.PyTreeRestore:
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=getattr(s, "sharding", None) or one), target
    )
    return ocp.args.PyTreeRestore(target, restore_args=ocp.checkpoint_utils.construct_restore_args(target))
