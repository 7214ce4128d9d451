"""What a client gets: vectors that know their space, features of layers, and scores that know their classes.

Last on the walk image -> batch -> state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vit22b import encodings
from vit22b.encodings import Encoding
from vit22b.errors import Failure

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Vectors of images or texts.

    Attributes:
        vectors: [n, D] as `encoding` says: float32 of unit length unless another one was asked for. Of zeros, before it
            is encoded, in the row of a failure that was asked for by on_error="return".
        names: n names: the path or address, or `image <index>`; a text names itself.
        indices: n places in the input, ascending; not all of them where failures were left out.
        space_id: the space that the vectors lie in.
        version: the model's version that answered; the last one, where several of the same space have.
        failures: the inputs that have no vector.
        dimensions: D: the model's, or how many of them were asked for.
        encoding: of the vectors; see vit22b.encodings.
    """

    vectors: npt.NDArray[Any]
    names: tuple[str, ...]
    indices: tuple[int, ...]
    space_id: str
    version: int
    failures: tuple[Failure, ...]
    dimensions: int
    encoding: Encoding = "float32"

    def __len__(self) -> int:
        return len(self.vectors)

    def decoded(self) -> Floats:
        """The vectors as float32 [n, D] of unit length, whatever their encoding; zeros in the rows of failures."""
        decoded = encodings.decode(self.vectors, self.encoding, self.dimensions)
        failed = {failure.index for failure in self.failures}
        if rows := [row for row, index in enumerate(self.indices) if index in failed]:
            decoded = decoded.copy()
            decoded[rows] = 0.0
        return decoded

    def cosine(self, other: "Embeddings") -> Floats:
        """The cosine of each vector with each of the other's: float32 [n, m].

        Raises:
            ValueError: the two lie in different spaces, or have different dimensions, where a cosine means nothing.
        """
        check_same_space(self.space_id, other.space_id)
        if self.dimensions != other.dimensions:
            raise ValueError(
                f"the vectors have {self.dimensions} and {other.dimensions} dimensions; embed both with the same"
            )
        return self.decoded() @ other.decoded().T


@dataclasses.dataclass(frozen=True)
class Features:
    """What a tower says of images before it makes vectors of unit length of them.

    Attributes:
        pooled: float32 [n, D].
        tokens: float32 [n, N, D], one for each patch, row by row; None unless asked for.
        layers: float32 [n, N, D] by the number of a block, counted from 0, as it leaves the tokens.
        names, indices, space_id, version, failures: as of Embeddings.
    """

    pooled: Floats
    tokens: Floats | None
    layers: Mapping[int, Floats]
    names: tuple[str, ...]
    indices: tuple[int, ...]
    space_id: str
    version: int
    failures: tuple[Failure, ...] = ()

    def __len__(self) -> int:
        return len(self.pooled)


@dataclasses.dataclass(frozen=True)
class ClassVectors:
    """Classes that are given by name, embedded: a classifier without training.

    Attributes:
        classes: k names, as they were given.
        templates: the texts that they were put in, with one `{}` each; a class's vector is the mean over them.
        vectors: float32 [k, D], of unit length.
        space_id: the space that the vectors lie in.
        version: the model's version that answered.
    """

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    vectors: Floats
    space_id: str
    version: int


@dataclasses.dataclass(frozen=True)
class Classification:
    """Images scored against classes.

    Attributes:
        scores: float32 [n, k], the cosine of each image with each class; zeros in the row of a failure that was asked
            for.
        classes: k names, as they were given.
        images: the images' embeddings, whose n rows these are.
    """

    scores: Floats
    classes: tuple[str, ...]
    images: Embeddings

    def top(self, count: int = 1) -> list[list[tuple[str, float]]]:
        """The best classes of each image with their scores, best first; of equal scores the class given first.

        Raises:
            ValueError: a count below 1. One above k gives all k.
        """
        if count < 1:
            raise ValueError(f"count is {count}; expected at least 1")
        order = np.argsort(-self.scores, axis=1, kind="stable")[:, :count]
        return [
            [(self.classes[place], float(row[place])) for place in places]
            for row, places in zip(self.scores, order, strict=True)
        ]


def join(parts: Sequence[Embeddings]) -> Embeddings:
    """The parts of a stream, at least one, as a whole.

    Raises:
        ValueError: they lie in different spaces, or differ in dimensions or encoding.
    """
    last = parts[-1]
    for part in parts:
        check_same_space(part.space_id, last.space_id)
        if (part.dimensions, part.encoding) != (last.dimensions, last.encoding):
            raise ValueError(
                f"the parts are {part.encoding} [{part.dimensions}] and {last.encoding} [{last.dimensions}]; "
                "embed all with the same settings"
            )
    return dataclasses.replace(
        last,
        vectors=np.concatenate([part.vectors for part in parts]),
        names=tuple(name for part in parts for name in part.names),
        indices=tuple(index for part in parts for index in part.indices),
        failures=tuple(failure for part in parts for failure in part.failures),
    )


def check_same_space(one: str, other: str) -> None:
    """Raises ValueError unless two space_ids are equal."""
    if one != other:
        raise ValueError(
            f"the vectors lie in two spaces, {one} and {other}, and cannot be compared or joined; "
            "embed one side again with the model of the other"
        )
