"""What the vectors of one file have in common: their space, and how each is stored.

After the last step of the walk SavedModel -> server -> client -> [file].
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from vit22b.client import Client
from vit22b.embeddings import Embeddings
from vit22b.encodings import DTYPES, Encoding, stored_width
from vit22b.errors import SpaceChangedError

Array = npt.NDArray[Any]
Rows = tuple[Sequence[str], Array]  # names, and a vector for each


@dataclasses.dataclass(frozen=True)
class Origin:
    """What all vectors of a file have in common.

    Attributes:
        space_id: the space that they lie in.
        version: the model's version that answered.
        dimensions: of a vector.
        encoding: of a vector; see vit22b.encodings.
    """

    space_id: str
    version: int
    dimensions: int
    encoding: Encoding = "float32"

    def __post_init__(self) -> None:
        if self.encoding not in get_args(Encoding) or self.dimensions < 1:
            raise ValueError(f"the encoding {self.encoding!r} with {self.dimensions} dimensions is none of ours")

    @classmethod
    def of(cls, part: Embeddings) -> "Origin":
        """Where a part of a stream comes from."""
        return cls(part.space_id, part.version, part.dimensions, part.encoding)

    def fits(self, part: Embeddings) -> bool:
        """Whether a part may be in the same file; the version alone may be another one, of the same space."""
        return dataclasses.replace(Origin.of(part), version=self.version) == self

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers that a vector is stored as."""
        return DTYPES[self.encoding]

    @property
    def width(self) -> int:
        """How many numbers a vector is stored as: for a binary one its bytes."""
        return stored_width(self.dimensions, self.encoding)


def space_changed(before: str, found: Embeddings, client: Client, remedy: str) -> SpaceChangedError:
    """The error for vectors that cannot be put beside those of before, since another version is served by now."""
    return SpaceChangedError(
        f"the vectors before lie in space {before}, and version {found.version} has answered in space {found.space_id}",
        code="FAILED_PRECONDITION",
        address=client.address,
        model=client.model,
        remedy=remedy,
    )
