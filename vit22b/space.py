"""The name of an embedding space.

Between checkpoint and SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. Vectors are comparable only when everything that makes them is equal; the space_id is a hash over all of that,
so that a client can refuse to mix, and a checkpoint and its export agree.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vit22b.config import ModelConfig
from vit22b.fields import variations
from vit22b.preprocess import Preprocess
from vit22b.tree import leaves, whole

_TOWERS = ("image", "text")
# Fields of a tower that stand elsewhere in the hash: in the recipe, or in the parameters' names and shapes.
_ELSEWHERE = {"image": ("pooling", "qk_norm"), "text": ("length", "qk_norm")}


def space_id(
    params: Mapping[str, Any],
    preprocess: Preprocess,
    config: ModelConfig,
    tokenizer: str | None = None,
    weights: str = "float32",
) -> str:
    """The first 16 hex digits of a SHA-256 over what decides an embedding.

    Args:
        params: a model's tree; the towers count, a head or a temperature does not. Leaves are read one at a time.
        preprocess: of the images, without its cap of pixels: that decides what is refused, and not what a vector is.
        config: of the model; what is not the paper's in its towers counts, their sizes the parameters tell.
        tokenizer: tokenizer.json of a zero-shot model.
        weights: dtype that the weights are used in; a model in bfloat16 embeds in another space.
    """
    space = Space(preprocess, config, tokenizer, weights)
    for name, leaf in sorted(leaves({k: params[k] for k in _TOWERS if k in params}).items()):
        space.begin(name, leaf)
        space.add(whole(leaf))
    return space.id


class Space:
    """What space_id makes of a model that is read in parts: every leaf in the order of the names, begun, then added."""

    def __init__(self, preprocess: Preprocess, config: ModelConfig, tokenizer: str | None, weights: str) -> None:
        """Takes what is no parameter; see space_id."""
        recipe = [_pixels(preprocess), config.image.pooling, tokenizer, weights]
        if architecture := _architecture(config):
            recipe.append(architecture)
        self._digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
        self._counts = False

    def begin(self, name: str, leaf: Any) -> None:
        """Begins a leaf; it counts where it is a tower's.

        Args:
            name: of the leaf, "image/blocks/query/kernel".
            leaf: an array, or what has its dtype and shape.
        """
        self._counts = name.split("/")[0] in _TOWERS
        if self._counts:
            self._digest.update(f"{name} {leaf.dtype} {tuple(leaf.shape)}".encode())

    def add(self, values: npt.NDArray[Any]) -> None:
        """Adds the next values of the leaf, in C order."""
        if self._counts:
            # As bytes, since a buffer of bfloat16 has no format code that the hash would take.
            self._digest.update(np.ascontiguousarray(values).view(np.uint8).data)

    @property
    def id(self) -> str:
        """The name of the space, once every leaf was added."""
        return self._digest.hexdigest()[:16]


def _pixels(preprocess: Preprocess) -> dict[str, Any]:
    """The preprocessing as it is hashed: the fields that came later only where they are used, so that a name stays."""
    later = ("crop_fraction", "mean", "std")
    changed = variations(preprocess)
    values = dataclasses.asdict(preprocess).items()
    return {name: value for name, value in values if name != "max_pixels" and (name not in later or name in changed)}


def _architecture(config: ModelConfig) -> dict[str, Any]:
    """By tower, what is not the paper's: nothing for a model of the paper's, whose name is as it always was."""
    towers = {"image": config.image, "text": config.text}
    found = {
        name: {field: value for field, value in variations(tower).items() if field not in _ELSEWHERE[name]}
        for name, tower in towers.items()
        if tower is not None
    }
    return {name: fields for name, fields in found.items() if fields}
