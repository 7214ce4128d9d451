"""Shape bias: what decides where an image has the shape of one thing and the texture of another (Geirhos et al. 2019).

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client: probabilities in, numbers
out. A category is one of a handful that decisions are made between, and holds one or more of a classifier's classes.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Decisions:
    """How often each cue decided, among images whose cues are in conflict.

    Attributes:
        shape, texture, neither: decisions for the shape's category, for the texture's, and for another.
    """

    shape: int
    texture: int
    neither: int

    @property
    def images(self) -> int:
        """Images with cues in conflict."""
        return self.shape + self.texture + self.neither

    @property
    def bias(self) -> float:
        """Decisions for the shape among those for one of the cues; NaN where there are none."""
        return self.shape / (self.shape + self.texture) if self.shape + self.texture else float("nan")

    @property
    def decided(self) -> float:
        """Share of the decisions that are for one of the cues; two in the number of categories by chance."""
        return (self.shape + self.texture) / self.images


def category_scores(probabilities: npt.ArrayLike, category_of: npt.ArrayLike, categories: int) -> Doubles:
    """The probability of each category, [n, c]: the mean over the classes that it holds, as in model-vs-human.

    The mean and not the sum, so that a category of many classes is not favoured. The rows need not sum to 1.

    Args:
        probabilities: [n, k], of the classes.
        category_of: [k], the category of each class; -1 for a class of none.
        categories: c, how many there are.

    Raises:
        ValueError: a category that holds no class.
    """
    given, places = np.asarray(probabilities, np.float64), np.asarray(category_of)
    if given.ndim != 2 or places.shape != given.shape[1:]:
        raise ValueError(f"probabilities {given.shape} and categories {places.shape}; expected [n, k] and [k]")
    held = [given[:, places == category] for category in range(categories)]
    if empty := [category for category, each in enumerate(held) if not each.shape[1]]:
        raise ValueError(f"the categories {empty} hold no class of the classifier; each needs one or more")
    return np.stack([each.mean(1) for each in held], axis=1)


def decide(scores: npt.ArrayLike) -> Integers:
    """The best category of each image, [n], of scores [n, c]; the first of equals.

    Raises:
        ValueError: a score that is not finite.
    """
    given = np.asarray(scores)
    if not np.isfinite(given).all():
        raise ValueError("some scores are not finite; the model has diverged")
    return given.argmax(1).astype(np.int64)


def count(decisions: npt.ArrayLike, shapes: npt.ArrayLike, textures: npt.ArrayLike) -> Decisions:
    """How often each cue decided; images whose cues are of one category are left out.

    Args:
        decisions, shapes, textures: categories [n]: decided for, of the shape, of the texture.

    Raises:
        ValueError: no image has cues in conflict.
    """
    found, shape, texture = (np.asarray(each) for each in (decisions, shapes, textures))
    if found.ndim != 1 or not found.shape == shape.shape == texture.shape:
        raise ValueError(f"decisions {found.shape}, shapes {shape.shape}, textures {texture.shape}; expected [n] each")
    conflict = shape != texture
    if not conflict.any():
        raise ValueError(
            "no image has a shape of one category and a texture of another; there is no conflict to decide"
        )
    by_shape, by_texture = (int((found == cue)[conflict].sum()) for cue in (shape, texture))
    return Decisions(by_shape, by_texture, int(conflict.sum()) - by_shape - by_texture)


def by_category(
    decisions: Integers, shapes: Integers, textures: Integers, categories: Sequence[str]
) -> dict[str, Decisions]:
    """The same for the images of each shape's category, where it has any with cues in conflict."""
    found = {}
    for place, name in enumerate(categories):
        inside = (shapes == place) & (textures != place)
        if inside.any():
            found[name] = count(decisions[inside], shapes[inside], textures[inside])
    return found


def error_consistency(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Cohen's kappa of where two observers err, of right and wrong [n] on the same images (Geirhos et al. 2020).

    1: they err on the same images; 0: as often together as two of their accuracies would by chance; below: less.

    Returns:
        NaN where chance alone makes them agree on every image, as two who never err.
    """
    one, two = (np.asarray(each, bool) for each in (first, second))
    if one.ndim != 1 or one.shape != two.shape or not len(one):
        raise ValueError(f"answers {one.shape} and {two.shape}; expected [n] of both, on the same images")
    observed = float((one == two).mean())
    expected = float(one.mean() * two.mean() + (1 - one.mean()) * (1 - two.mean()))
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")
