"""What came of one request's images, and how parts become a user's answer.

Between vit22b.pinned, which makes parts, and vit22b.served, which gives them out, at the end of the walk SavedModel ->
server -> client.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from vit22b import encodings, signature
from vit22b.embeddings import Embeddings, Features, Floats
from vit22b.encodings import Form
from vit22b.errors import Failure
from vit22b.sources import NamedImage
from vit22b.tensors import Array

OnError = Literal["raise", "skip", "return"]


@dataclasses.dataclass(frozen=True)
class Pin:
    """The version that answered.

    Attributes:
        space_id: the space of its vectors.
        version: its number.
        width: the dimensions of its vectors.
    """

    space_id: str
    version: int
    width: int


@dataclasses.dataclass(frozen=True)
class Part:
    """What came of the images of one request.

    Attributes:
        pin: the version that answered.
        images: all of them, in the input's order.
        rows: [n, ...] by output; zeros for an image that failed.
        failures: those that could not be read or decoded, by index.
    """

    pin: Pin
    images: tuple[NamedImage, ...]
    rows: Mapping[str, Array]
    failures: Mapping[int, Failure]

    def kept(self, on_error: OnError) -> list[int]:
        """The places of the images that have a row in the answer."""
        places = range(len(self.images))
        return [place for place in places if on_error == "return" or self.images[place].index not in self.failures]


def failures(parts: Iterable[Part]) -> tuple[Failure, ...]:
    """All failures, in the input's order."""
    return tuple(failure for part in parts for _, failure in sorted(part.failures.items()))


def embeddings(part: Part, on_error: OnError, form: Form) -> Embeddings:
    """The vectors of a part."""
    kept = part.kept(on_error)
    images = [part.images[place] for place in kept]
    names, indices = [image.name for image in images], [image.index for image in images]
    return formed(part.pin, part.rows[signature.EMBEDDING][kept], names, form, indices, failures([part]))


def features(parts: Sequence[Part], on_error: OnError, layers: Sequence[int]) -> Features:
    """The features of parts, at least one; tokens where they have them."""
    kept = [(part, part.kept(on_error)) for part in parts]
    images = [part.images[place] for part, places in kept for place in places]
    rows = {name: np.concatenate([part.rows[name][places] for part, places in kept]) for name in parts[0].rows}
    pin = parts[-1].pin
    return Features(
        pooled=rows[signature.POOLED],
        tokens=rows.get(signature.TOKENS),
        layers={layer: rows[signature.layer_tokens(layer)] for layer in layers},
        names=tuple(image.name for image in images),
        indices=tuple(image.index for image in images),
        space_id=pin.space_id,
        version=pin.version,
        failures=failures(parts),
    )


def formed(
    pin: Pin,
    vectors: Floats,
    names: Sequence[str],
    form: Form,
    indices: Sequence[int] | None = None,
    failed: tuple[Failure, ...] = (),
) -> Embeddings:
    """Vectors in the form that is wanted.

    Args:
        pin: the version that answered.
        vectors: float32 [n, D].
        names: of them.
        form: that is wanted.
        indices: their places in the input; None for all of it.
        failed: what has no vector.

    Raises:
        ValueError: fewer dimensions than are wanted.
    """
    encodings.check(form.dimensions, form.encoding, pin.width)
    return Embeddings(
        vectors=encodings.encode(encodings.shorten(vectors, form.dimensions), form.encoding),
        names=tuple(names),
        indices=tuple(range(len(names)) if indices is None else indices),
        space_id=pin.space_id,
        version=pin.version,
        failures=failed,
        dimensions=form.dimensions or pin.width,
        encoding=form.encoding,
    )
