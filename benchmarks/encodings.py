"""What smaller vectors lose: of a file of vectors, every encoding beside float32.

    .venv/bin/python benchmarks/encodings.py build/demo/heldout.npz

Beside the end of the walk ... -> server -> client: vit22b/encodings.py on vectors that clients/embed.py wrote. Prints a
table for docs/clients.md: bytes of a vector, the largest and mean error of a cosine, and how many of the ten nearest
neighbours by float32 are among the ten nearest by the encoding.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import tyro
from rich.table import Table

from vit22b import encodings, program
from vit22b.encodings import Encoding, Floats

NEAREST = 10


@dataclasses.dataclass(frozen=True)
class Settings:
    """Compare encodings."""

    vectors: Annotated[Path, tyro.conf.Positional]
    """File with float32 vectors, NAME.npz."""
    dimensions: tuple[int, ...] = ()
    """Numbers of dimensions to compare besides all of them."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """What an encoding loses.

    Attributes:
        bytes_each: of a vector.
        largest, mean: error of a cosine of two different vectors.
        kept: share of the nearest neighbours that stay so.
    """

    bytes_each: int
    largest: float
    mean: float
    kept: float


def loss(vectors: Floats, dimensions: int, encoding: Encoding) -> Loss:
    """Compares an encoding with float32 in all dimensions; vectors are [n, D] of unit length, n above NEAREST."""
    encoded = encodings.encode(encodings.shorten(vectors, dimensions), encoding)
    decoded = encodings.decode(encoded, encoding, dimensions)
    true, found = vectors @ vectors.T, decoded @ decoded.T
    others = ~np.eye(len(vectors), dtype=bool)
    errors = np.abs(true - found)[others]
    kept = [len(set(a) & set(b)) / NEAREST for a, b in zip(_nearest(true), _nearest(found), strict=True)]
    return Loss(encoded[0].nbytes, float(errors.max()), float(errors.mean()), float(np.mean(kept)))


def main(settings: Settings) -> None:
    """Prints the table."""
    with np.load(settings.vectors) as file:
        vectors = file["vectors"]
    if vectors.dtype != np.float32 or len(vectors) <= NEAREST:
        raise ValueError(f"{settings.vectors} has {vectors.dtype} {list(vectors.shape)}; expected float32 [n > 10, D]")
    table = Table("dimensions", "encoding", "bytes", "largest error", "mean error", f"of the {NEAREST} nearest")
    for dimensions in (vectors.shape[1], *settings.dimensions):
        for encoding in get_args(Encoding):
            found = loss(vectors, dimensions, encoding)
            cells = [f"{found.largest:.1e}", f"{found.mean:.1e}", f"{found.kept:.1%}"]
            table.add_row(str(dimensions), encoding, str(found.bytes_each), *cells)
    program.table_console().print(table)


def _nearest(cosines: Floats) -> list[list[int]]:
    """The nearest of each row but itself."""
    alone = cosines.copy()
    np.fill_diagonal(alone, -np.inf)
    order: list[list[int]] = np.argsort(-alone, axis=1, kind="stable")[:, :NEAREST].tolist()
    return order


if __name__ == "__main__":
    program.run(main, Settings, __doc__)
