"""Compares served vectors with JAX's from the checkpoint: is anything lost between training and serving?

    .venv/bin/python export/parity.py --checkpoint build/lit --vectors vectors.npz

The vectors are what clients/embed.py wrote; the images are read again from the paths in it. Exits 1 where a number is
off by more than --tolerance.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vit22b import program
from vit22b.checkpoint import load
from vit22b.embedder import embed_files


@dataclasses.dataclass(frozen=True)
class Settings:
    """Compare served vectors with JAX's."""

    checkpoint: Path
    """The checkpoint that was exported: its work directory (the latest step), or one step in it."""
    vectors: Path
    """What clients/embed.py wrote: an .npz with vectors, names and space_id."""
    tolerance: float = 1e-4
    """Largest absolute error of a number; vectors have unit length."""
    output: Path | None = None
    """JSON file to write the result to."""


def compare(settings: Settings) -> int:
    """Embeds the images again and compares; the exit code.

    Raises:
        ValueError: no such checkpoint, a file that is no such .npz, an image that is gone, or two spaces.
    """
    served, paths, space = read_vectors(settings.vectors)
    expected = embed(settings.checkpoint, paths, space)
    error = float(np.abs(served - expected).max())
    cosine = float((served * expected).sum(axis=-1).min())
    result = {"n": len(paths), "max_abs_error_served_vs_jax": error, "min_cosine": cosine}
    if settings.output:
        settings.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{len(paths)} vectors: max abs error {error:.3g}, smallest cosine {cosine:.7f}")
    return 0 if error <= settings.tolerance else 1


def read_vectors(path: Path) -> tuple[npt.NDArray[np.float32], list[Path], str]:
    """Vectors [n, D], the n images' paths, and the space_id."""
    try:
        with np.load(path) as file:
            return file["vectors"], [Path(name) for name in file["names"]], file["space_id"].item()
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is no .npz of clients/embed.py: {error}") from error


def embed(checkpoint: Path, paths: list[Path], space: str) -> npt.NDArray[np.float32]:
    """Embeddings [n, D] of image files by the checkpoint's image tower, in JAX."""
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise ValueError(f"{len(missing)} of the images are gone, {missing[0]} is the first; run this where they are")
    trained = load(checkpoint)
    own = trained.space_id
    if own != space:
        raise ValueError(f"the vectors lie in space {space}, the checkpoint {checkpoint} in {own}; name the other one")
    return embed_files(trained, paths)


if __name__ == "__main__":
    program.run(compare, Settings, __doc__)
