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

from vit22b.config import Pooling, Preprocess
from vit22b.tree import leaves, whole

_TOWERS = ("image", "text")


def space_id(
    params: Mapping[str, Any],
    preprocess: Preprocess,
    pooling: Pooling,
    tokenizer: str | None = None,
    weights: str = "float32",
) -> str:
    """The first 16 hex digits of a SHA-256 over what decides an embedding.

    Args:
        params: a model's tree; the towers count, a head or a temperature does not. Leaves are read one at a time.
        preprocess: of the images, without its cap of pixels: that decides what is refused, and not what a vector is.
        pooling: of the image tower.
        tokenizer: tokenizer.json of a zero-shot model.
        weights: dtype that the weights are used in; a model in bfloat16 embeds in another space.
    """
    digest = hashlib.sha256()
    pixels = {name: value for name, value in dataclasses.asdict(preprocess).items() if name != "max_pixels"}
    recipe = [pixels, pooling, tokenizer, weights]
    digest.update(json.dumps(recipe, sort_keys=True).encode())
    for name, leaf in sorted(leaves({k: params[k] for k in _TOWERS if k in params}).items()):
        digest.update(f"{name} {leaf.dtype} {tuple(leaf.shape)}".encode())
        # As bytes, since a buffer of bfloat16 has no format code that the hash would take.
        digest.update(np.ascontiguousarray(whole(leaf)).view(np.uint8).data)
    return digest.hexdigest()[:16]
