"""What is judged: an image tower and its text tower, wherever they run: in a checkpoint, or behind a server.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client: both ends of it look the
same here, so that the same protocols judge both, and their reports show whether anything was lost in between.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from vit22b.config import ModelConfig
from vit22b.preprocess import Preprocess

Floats = npt.NDArray[np.float32]
Image = Path | bytes  # a file, or the bytes of one


@dataclasses.dataclass(frozen=True)
class TowerFeatures:
    """What the image tower says of n images.

    Attributes:
        pooled: float32 [n, D].
        tokens: float32 [n, N, D], of the patches, row by row; None unless asked for.
        layers: float32 [n, N, D] by the number of a block, as it leaves the tokens.
    """

    pooled: Floats
    tokens: Floats | None = None
    layers: Mapping[int, Floats] = dataclasses.field(default_factory=dict)


class Tower(Protocol):
    """A model as the protocols see it.

    Attributes:
        source: as the user named it, "checkpoint:DIR" or "grpc://HOST:PORT/MODEL".
        checkpoint: where its weights lie, for protocols that train them; None for a served model.
        fingerprint: names everything that decides its answers, the head included, so that they can be kept; None
            where nothing does, as for a server, which may have another model tomorrow.
        head: the digest of its head's weights by vit22b.tree.digest; None without a head, and for a served model.
        step: of its training.
        space_id, config, preprocess, labels: as its model.json or its manifest says.
        layers: blocks whose tokens it can answer.
    """

    source: str
    checkpoint: Path | None
    fingerprint: str | None
    head: str | None
    step: int
    space_id: str
    config: ModelConfig
    preprocess: Preprocess
    labels: tuple[str, ...]
    layers: tuple[int, ...]

    def features(self, images: Sequence[Image], *, tokens: bool = False, layers: Sequence[int] = ()) -> TowerFeatures:
        """Pooled features and, if asked for, tokens, of one image or more.

        Raises:
            ValueError: an image that cannot be decoded, or a layer that the tower does not answer.
        """
        ...

    def embeddings(self, images: Sequence[Image]) -> Floats:
        """float32 [n, E], rows of unit length."""
        ...

    def logits(self, images: Sequence[Image]) -> Floats:
        """float32 [n, Y] of the head.

        Raises:
            ValueError: the model has no head.
        """
        ...

    def pixel_logits(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """float32 [n, Y] of decoded images, uint8 [n, R, R, 3]; raises as `logits`."""
        ...

    def texts(self, texts: Sequence[str]) -> Floats:
        """float32 [m, E], rows of unit length.

        Raises:
            ValueError: the model has no text tower.
        """
        ...

    def close(self) -> None:
        """Lets go of what the tower holds."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
