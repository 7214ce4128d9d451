"""A trained model's parameters, read one layer of one leaf at a time.

Between checkpoint and SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. vit22b.checkpoint.load reads a model into memory; a model that is only passed on need not be there as a whole.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vit22b import stored
from vit22b.checkpoint import Checkpoints, Weights
from vit22b.description import FOLDER, Description, find_step, read_description
from vit22b.model import abstract
from vit22b.space import Space
from vit22b.tree import Params, digest, leaves


@dataclasses.dataclass(frozen=True)
class Layers:
    """The parameters of a checkpoint, on disk.

    Attributes:
        description: what model.json says.
        step: of the checkpoint.
        weights: which they are: "params" as the steps left them, "ema" their moving average.
        shapes: their tree, of jax.ShapeDtypeStruct.
        folder: of the step.
        items: by leaf, the item that it is read from, "params" or "ema", and Orbax's metadata of that.
    """

    description: Description
    step: int
    weights: str
    shapes: Params
    folder: Path
    items: dict[str, tuple[str, Any]]

    def read(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """Reads a leaf in consecutive slabs of layers; see vit22b.stored.slabs."""
        item, saved = self.items[name]
        return stored.slabs(self.folder / item, saved, name)

    @property
    def space_id(self) -> str:
        """The name of the space that it embeds in; reads every parameter, a layer at a time."""
        of = self.description
        space = Space(of.preprocess, of.config, of.tokenizer, "float32")
        for name, leaf in sorted(leaves(self.shapes).items()):
            space.begin(name, leaf)
            for values in self.read(name):
                space.add(values)
        return space.id

    @property
    def head(self) -> str | None:
        """The digest of the head by vit22b.tree.digest, for which it is read into memory; None without one."""
        if "head" not in self.shapes:
            return None
        names = leaves(self.shapes["head"])
        return digest({name: np.concatenate(list(self.read(f"head/{name}"))) for name in names})


def open_layers(path: Path | str, weights: Weights = "auto") -> Layers:
    """Opens the parameters of a checkpoint; nothing of them is read yet.

    Args:
        path: a work directory (its latest step is taken), or one step in it.
        weights: as vit22b.checkpoint.load takes it.

    Raises:
        ValueError: as vit22b.checkpoint.load.
    """
    workdir, step = find_step(path)
    folder = workdir / FOLDER / str(step)
    description = read_description(folder)  # training may have saved another one meanwhile
    _, shapes = abstract(description.config)
    with Checkpoints(workdir) as checkpoints:
        parts = checkpoints.sources(step, shapes, weights)
        saved = checkpoints.compare(step, parts, beside=parts.get("ema"))
    items = {name: (item, saved[item]) for item, part in parts.items() for name in leaves(part)}
    source = "ema" if "ema" in parts else "params"
    return Layers(description, step, source, shapes, folder, items)
