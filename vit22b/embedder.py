"""Embeds image files with a trained model, in JAX.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client, straight from files and
checkpoint to vectors: what locked-image tuning learns from, and what served vectors are compared with.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt
from flax import nnx
from jax.typing import ArrayLike

from vit22b.checkpoint import Trained
from vit22b.execution import Execution
from vit22b.image import image_batches
from vit22b.model import abstract, normalise
from vit22b.tree import Params, whole

BATCH = 256


def embed_files(trained: Trained, paths: Sequence[Path], batch: int = BATCH) -> npt.NDArray[np.float32]:
    """The embedding of every image, in order.

    Args:
        trained: the model; only its image tower runs.
        paths: n image files.
        batch: how many are computed at once.

    Returns:
        float32 [n, D], rows of unit length.

    Raises:
        ValueError: a file that cannot be read or decoded; the message names it.
    """
    embed = embedder(trained)
    batches = image_batches(paths, trained.description.preprocess, batch)
    return np.concatenate([whole(embed(pixels)) for pixels in batches])


def embedder(trained: Trained, execution: Execution = Execution()) -> Callable[[ArrayLike], jax.Array]:
    """The compiled image tower: pixels uint8 [B, R, R, 3] to embeddings float32 [B, D], rows of unit length."""
    graph, shapes = abstract(trained.description.config)

    @jax.jit
    def embed(tower: Params, pixels: jax.Array) -> jax.Array:
        network = nnx.merge(graph, {**shapes, "image": tower})
        images = normalise(pixels, trained.description.preprocess, execution.dtype)
        return network.image(images, execution=execution)["embedding"]

    return lambda pixels: embed(trained.params["image"], pixels)
