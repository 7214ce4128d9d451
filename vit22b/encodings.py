"""Smaller vectors: fewer dimensions, and fewer bytes for each.

Last on the walk ... -> server -> client, and in the client's process alone: the server answers float32. docs/clients.md
has what each loses, measured.
"""

import dataclasses
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Encoding = Literal["float32", "float16", "int8", "binary"]
Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

# What the numbers of a vector are stored as, on disk as well.
DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
    "binary": np.dtype("u1"),
}
_LARGEST = 127.0  # of int8; -128 is left out, so that a vector and its opposite are encoded alike


@dataclasses.dataclass(frozen=True)
class Form:
    """How vectors are wanted; see `encode`.

    Attributes:
        dimensions: how many of the model's; None for all.
        encoding: of each.
    """

    dimensions: int | None = None
    encoding: Encoding = "float32"

    def __post_init__(self) -> None:
        check(self.dimensions, self.encoding)


def check(dimensions: int | None, encoding: str, width: int | None = None) -> None:
    """Raises ValueError for a number of dimensions or an encoding that there is not; `width` is what the model has."""
    if encoding not in get_args(Encoding):
        raise ValueError(f"the encoding is {encoding!r}; expected one of {', '.join(get_args(Encoding))}")
    if dimensions is not None and not (1 <= dimensions <= (width or dimensions)):
        upper = f" to {width}, what the model answers" if width else ""
        raise ValueError(f"dimensions is {dimensions}; expected 1{upper}")


def stored_width(dimensions: int, encoding: Encoding) -> int:
    """How many numbers a vector is stored as: for a binary one its bytes."""
    return (dimensions + 7) // 8 if encoding == "binary" else dimensions


def shorten(vectors: Floats, dimensions: int | None) -> Floats:
    """The first `dimensions` of each vector, of unit length again; zeros stay zeros. [n, D] -> [n, dimensions]."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    return unit(vectors[:, :dimensions])


def encode(vectors: Floats, encoding: Encoding) -> Array:
    """Encodes vectors.

    Args:
        vectors: float32 [n, D] of unit length.
        encoding: "float16": rounded. "int8": each vector is scaled so that its largest part is 127, and rounded; the
            scale is lost, as a cosine does not need it. "binary": the signs, eight to a byte, the first in the highest
            bit; a part of 0 or more is a 1.

    Returns:
        float32 or float16 [n, D], int8 [n, D], or uint8 [n, ceil(D / 8)].

    Raises:
        ValueError: another encoding.
    """
    check(None, encoding)
    if encoding == "float16":
        return vectors.astype(np.float16)
    if encoding == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
        return np.rint(vectors / np.where(largest > 0, largest, 1.0) * _LARGEST).astype(np.int8)
    if encoding == "binary":
        return np.packbits(vectors >= 0, axis=1)
    return vectors


def decode(encoded: Array, encoding: Encoding, dimensions: int) -> Floats:
    """Vectors of unit length, float32 [n, dimensions], that `encode` would encode as given, up to its loss."""
    if encoding == "float32":
        return encoded
    if encoding == "binary":
        signs = np.unpackbits(encoded, axis=1, count=dimensions).astype(np.float32)
        return unit(2 * signs - 1)
    return unit(encoded.astype(np.float32))


def unit(vectors: Floats) -> Floats:
    """Vectors scaled to length 1, float32 [n, D]; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
