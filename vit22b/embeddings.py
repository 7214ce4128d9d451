"""What a client gets: vectors that know their space, and scores that know their classes.

Last on the walk image -> batch -> state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from vit22b.errors import Failure

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Vectors of images or texts.

    Attributes:
        vectors: float32 [n, D], of unit length; zeros in the row of a failure that was asked for by on_error="return".
        names: n names: the path, or `image <index>`; a text names itself.
        indices: n places in the input, ascending; not all of them where failures were left out.
        space_id: the space that the vectors lie in.
        version: the model's version that answered.
        failures: the inputs that have no vector.
    """

    vectors: Floats
    names: tuple[str, ...]
    indices: tuple[int, ...]
    space_id: str
    version: int
    failures: tuple[Failure, ...] = ()

    def __len__(self) -> int:
        return len(self.vectors)

    def cosine(self, other: "Embeddings") -> Floats:
        """The cosine of each vector with each of the other's: float32 [n, m].

        Raises:
            ValueError: the two lie in different spaces, where a cosine means nothing.
        """
        check_same_space(self.space_id, other.space_id)
        return self.vectors @ other.vectors.T


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


def check_same_space(one: str, other: str) -> None:
    """Raises ValueError unless two space_ids are equal."""
    if one != other:
        raise ValueError(
            f"the vectors lie in two spaces, {one} and {other}, and cannot be compared or joined; "
            "embed one side again with the model of the other"
        )
