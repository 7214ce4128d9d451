"""Checkpoints: sharded, self-describing, restored onto any mesh.

Between train state and SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. A step lies in `<workdir>/checkpoints/<step>/` with the items

    params      the parameters' tree, the same whatever mesh wrote it
    ema         their moving average, of those that are trained, where the run keeps one
    opt_state   the optimizer's state
    data        where the input stands, and the settings of the training
    model       model.json: everything that is needed to use the parameters (vit22b/description.py)

Orbax does the work. What is added here and in vit22b/stored.py: trees are compared by name and shape before anything is
read, since a restore can otherwise fill a part of a model without a word.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from vit22b import stored
from vit22b.description import FOLDER, Description, find_step, read_description
from vit22b.model import abstract
from vit22b.sharding import RULES, Rules, param_shardings, with_shardings
from vit22b.space import space_id
from vit22b.tree import Params, divided, leaves, merged

TREES = ("params", "opt_state", "ema")
Weights = Literal["auto", "ema", "params"]


class Checkpoints:
    """The checkpoints of one work directory; use it as a context manager, which waits for writes under way."""

    def __init__(
        self, workdir: Path | str, keep: int | None = None, keep_best: int = 0, best: str | None = None
    ) -> None:
        """Opens a work directory, which need not exist before the first save.

        Args:
            workdir: holds the folder `checkpoints`.
            keep: how many of the latest steps to keep; None for all. With a number, what a killed run left half
                written is removed as well: there is one writer.
            keep_best: how many to keep besides, those with the largest `best`.
            best: name of one of the metrics that `save` is given.
        """
        self.folder = Path(workdir).absolute() / FOLDER
        latest, track = LatestN(keep), keep_best > 0 and best is not None
        best_of = BestN(
            get_metric_fn=lambda metrics: metrics[best], n=keep_best, keep_checkpoints_without_metrics=False
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers={
                **{item: ocp.PyTreeCheckpointHandler() for item in TREES},
                "data": ocp.JsonCheckpointHandler(),
                "model": ocp.JsonCheckpointHandler(filename="model.json"),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([latest, best_of]) if track else latest,
                best_fn=best_of.get_metric_fn if track else None,
                cleanup_tmp_directories=keep is not None and self.folder.is_dir(),
                create=False,
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The latest whole step, or None."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Waits until what was saved is on disk."""
        self._manager.wait_until_finished()

    def save(
        self,
        step: int,
        trees: Mapping[str, Any],
        data: Mapping[str, Any],
        model: Description,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Writes one step in the background; it appears under its number once it is whole.

        Args:
            step: the number of steps taken.
            trees: by item (see TREES), trees of arrays on whatever mesh.
            data: where the input stands, as plain values.
            model: becomes model.json.
            metrics: what the best are chosen by.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{item: stored.to_save(tree) for item, tree in trees.items()},
                data=ocp.args.JsonSave(dict(data)),
                model=ocp.args.JsonSave(model.to_json()),
            ),
            metrics=dict(metrics) if metrics else None,
            force=True,
        )

    def data(self, step: int) -> dict[str, Any]:
        """Reads where the input stood, as it was saved."""
        return self._manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))["data"]

    def items(self, step: int) -> set[str]:
        """The names of the trees that a step has."""
        return {item for item in TREES if (self.folder / str(step) / item).is_dir()}

    def restore(self, step: int, targets: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Reads trees of a step, with little more memory than they take themselves.

        Args:
            step: which.
            targets: by item, trees of jax.ShapeDtypeStruct; their shardings say where the arrays shall lie, on the
                first device where there are none.
            beside: parts of `params` that the checkpoint has too and that are not read, since the caller has them.

        Returns:
            The trees by item.

        Raises:
            ValueError: the checkpoint's trees are others; the message lists the differences by name.
        """
        saved = self.compare(step, targets, beside)
        folder = self.folder / str(step)
        return {item: stored.read(folder / item, saved[item], target) for item, target in targets.items()}

    def compare(self, step: int, targets: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Compares what is stored with the targets, as `restore` does and with its errors; Orbax's metadata by item."""
        saved = {item: self._saved(step, item) for item in targets}
        for item, target in targets.items():
            whole = merged(beside or {}, target) if item == "params" else target
            if lines := stored.differences(saved[item], whole):
                raise ValueError(
                    f"{item} of {self.folder / str(step)} does not fit the model:\n" + "\n".join(lines) + "\n"
                    "continue with the settings that wrote it, or give another --workdir"
                )
        return saved

    def sources(self, step: int, target: Params, weights: Weights) -> dict[str, Params]:
        """Divides whole parameters into the items that hold them, "ema" and "params".

        What has no average, since it was locked, comes from the parameters.

        Args:
            step: which.
            target: the parameters' tree, of whatever leaves.
            weights: see `load`.

        Raises:
            ValueError: an average is asked for, and there is none.
        """
        if weights == "params" or (weights == "auto" and "ema" not in self.items(step)):
            return {"params": target}
        averages = leaves(self._saved(step, "ema"))
        averaged, locked = divided(target, averages.__contains__)
        return {"ema": averaged, **({"params": locked} if locked else {})}

    def _saved(self, step: int, item: str) -> Any:
        if item not in self.items(step):
            raise ValueError(
                f"{self.folder / str(step)} has no {item}: the run that wrote it kept none. Continue it with its own "
                "settings; to take weights from it, name --weights_from params"
            )
        return self._manager.item_metadata(step)[item].tree


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model, read from a checkpoint.

    Attributes:
        description: what model.json says.
        step: of the checkpoint.
        params: its parameters' tree, float32.
        weights: which they are: "params" as the steps left them, "ema" their moving average.
    """

    description: Description
    step: int
    params: Params
    weights: str = "params"

    @property
    def space_id(self) -> str:
        """The name of the space that it embeds in; reads every parameter of the towers."""
        of = self.description
        return space_id(self.params, of.preprocess, of.config, of.tokenizer)


def load(path: Path | str, mesh: Mesh | None = None, weights: Weights = "auto", rules: Rules = RULES) -> Trained:
    """Reads the description and the parameters of a checkpoint.

    Args:
        path: a work directory (its latest step is taken), or one step in it.
        mesh: where the parameters shall lie, by the rules; the first device if None.
        weights: "params" as the steps left them, "ema" their moving average, "auto" the average where there is one.
            What was not trained has no average: it is taken from the parameters.
        rules: how parameters are laid out on the mesh.

    Raises:
        ValueError: see find_step; or the parameters are not those of the model that is described, or the checkpoint
            has no average.
    """
    workdir, step = find_step(path)
    description = read_description(workdir / FOLDER / str(step))  # training may have saved another one meanwhile
    _, target = abstract(description.config)
    if mesh is not None:
        target = with_shardings(target, param_shardings(target, mesh, rules))
    with Checkpoints(workdir) as checkpoints:
        parts = checkpoints.sources(step, target, weights)
        read = checkpoints.restore(step, parts, beside=parts.get("ema"))
    params = functools.reduce(merged, read.values())
    return Trained(description, step, params, "ema" if "ema" in parts else "params")
