"""The image tower that a run begins with at random weights, as settings name it.

Before the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
from typing import Any, Literal

from vit22b.config import ViTConfig, vit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """An image tower: a named size, and what shall differ from it."""

    size: str = "B"
    """Name of the size: mu, Ti, S, M, B, L, So400m, H, g, G, e, 22b."""
    resolution: int | None = None
    """Side of the images in pixels; the size's own (224, mu: 28) if not given."""
    patch: int | None = None
    """Side of the patches in pixels; the size's own (16, of mu 4, from So400m on 14) if not given."""
    depth: int | None = None
    """Blocks; the size's own if not given."""
    pooling: Literal["map", "mean"] = "map"
    """map: the paper's attention pooling; mean: the mean of the tokens."""

    @property
    def image(self) -> ViTConfig:
        """The tower.

        Raises:
            ValueError: there is no such size, or what differs does not fit it.
        """
        given = {name: getattr(self, name) for name in ("resolution", "patch", "depth")}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return vit(self.size, pooling=self.pooling, **changes)
