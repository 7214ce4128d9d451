"""What an import will do: the configuration that the files tell, the rules, and what the user says besides.

In front of the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Each family's module makes a Plan of the tensors' names and shapes; export/import_weights.py carries it out.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from export.families.positions import Resampling, resampled
from export.families.rules import Rules
from export.families.weights import Weights
from vit22b.block_config import Activation
from vit22b.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Choices:
    """What neither shapes nor a config.json tell of a model, and what a user may change of it."""

    architecture: str | None = None
    """timm's name of the model, for instance vit_base_patch16_224, where no config.json says it."""
    resolution: int | None = None
    """Side of the images in pixels; the table of positions is resampled for it, as the family does. Default: the
    preprocessing's, else the table's own."""
    heads: int | None = None
    """Attention heads of the image tower, where the source does not tell: no shape shows them."""
    activation: Activation | None = None
    """Of the image tower's MLP, where it is not what the source says or the family has."""
    norm_epsilon: float | None = None
    """Of the norms, likewise."""
    pooling: Literal["class", "mean"] | None = None
    """What an embedding is made of, in a family that leaves it open: the class token or the patches' mean."""

    def require_unset(self, family: str, *names: str) -> None:
        """Raises ValueError where one is given that the family settles itself."""
        for name in names:
            if getattr(self, name) is not None:
                raise ValueError(
                    f"--{name} is {getattr(self, name)}, but a {family} says itself what it is; leave it out"
                )


@dataclasses.dataclass(frozen=True)
class Plan:
    """An import, worked out.

    Attributes:
        family: its name, for messages and model.json.
        config: of our model.
        weights: the tensors, prefix taken off and positions resampled.
        rules: for every leaf that a model of the family can have.
        skip: patterns of tensors that the family has and our model does not take.
        labels: names of the head's classes; empty where the source has none.
    """

    family: str
    config: ModelConfig
    weights: Weights
    rules: Rules
    skip: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def grid(weights: Weights, table: str, leading: int, patch: int, resolution: int | None) -> int:
    """The resolution that a model with a table of positions takes.

    Args:
        weights: have the table, [.., leading + N, D].
        table: its name.
        leading: rows that are of no patch.
        patch: P.
        resolution: of the images; None for the table's own.

    Raises:
        ValueError: N is no square, or the resolution no multiple of P.
    """
    tokens = weights.shape(table)[-2] - leading
    side = math.isqrt(max(tokens, 0))
    if side * side != tokens or not tokens:
        raise ValueError(
            f"{weights.path}: {table} has positions for {tokens} patches, no square; towers take square images"
        )
    if resolution and resolution % patch:
        below = resolution - resolution % patch
        raise ValueError(
            f"resolution {resolution} is no multiple of the patch {patch}; take {below} or {below + patch}"
        )
    return resolution or side * patch


def with_positions(weights: Weights, table: str, tokens: int, leading: int, how: Resampling) -> Weights:
    """The weights with their table of positions made for N tokens; as they are where it is."""
    rows = weights.shape(table)[-2]
    if rows == tokens + leading:
        return weights
    own = weights.read(table)
    return weights.replaced({table: resampled(own.reshape(rows, -1), tokens, leading, how)})


def labels_of(config: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The names of classes that a config.json has; none where they are only numbered or of another count."""
    names = config.get("id2label") or config.get("label_names") or {}
    ordered = names if isinstance(names, list) else [names[key] for key in sorted(names, key=int)]
    numbered = all(str(name) == f"LABEL_{i}" for i, name in enumerate(ordered))
    return () if numbered or len(ordered) != classes else tuple(map(str, ordered))
