"""Label maps: what a classifier of some classes says of a test set with others.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The rules are here, and
the maps that are nothing but a rule. A map that is a table too, as ObjectNet's 113 classes are, is a file that the user
has: lines with a name each (the classes that the set shares), or JSON,

    {"rule": "restrict" | "max" | "any", "classes": {"class of the test set": ["class that is told", ...]}}

    restrict    the greatest logit among the classes that stand in the map decides (ImageNet-R, ImageNet-A: 200 of
                1,000); a class has one that is told for it
    max         a class's score is the greatest of those told for it, and the greatest score decides (ObjectNet, where
                several of ImageNet's classes are one; a set of superclasses)
    any         all classes compete, and right is whichever stands for one of the image's labels; an image without
                labels is left out (ImageNet ReaL, Beyer et al. 2020)
"""

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from train.evaluators.accuracy import ranks, within
from train.evaluators.features import Doubles, Indices
from vit22b.fields import require, require_choice
from vit22b.prompts import canonical, read_names

Rule = Literal["restrict", "max", "any"]

# Maps that need no table, by name: from a rule to the classes that it is for.
NAMED: Mapping[str, tuple[Rule, Literal["all", "labelled"]]] = {
    "identity": ("max", "all"),
    "imagenet-v2": ("max", "all"),
    "subset": ("restrict", "labelled"),  # to the classes that the part has images of
    "imagenet-r": ("restrict", "labelled"),
    "imagenet-a": ("restrict", "labelled"),
    "real": ("any", "all"),
    "imagenet-real": ("any", "all"),
}


@dataclasses.dataclass(frozen=True)
class LabelMap:
    """A rule and what it is for.

    Attributes:
        rule: see the module.
        classes: the classes that are told, for each of the test set's.
    """

    rule: Rule
    classes: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        require_choice("rule", self.rule, Rule)
        require(bool(self.classes), "the label map has no classes; give one or more")
        for name, told in self.classes.items():
            require(
                bool(told), f"the label map has nothing for {name!r}; give a class that is told for it, or leave it"
            )
            require(
                self.rule != "restrict" or len(told) == 1,
                f"the label map has {len(told)} classes for {name!r}; the rule restrict takes one, max takes several",
            )


@dataclasses.dataclass(frozen=True)
class Judged:
    """What became of the images that count.

    Attributes:
        kept: int64 [m], places of those images in the part.
        right: float64 [m], 1 where the answer was right.
        guessed: what the best constant answer reaches.
    """

    kept: Indices
    right: Doubles
    guessed: float


def find_map(given: str | None, folder: Path, classes: Sequence[str], labels: Sequence[Sequence[str]]) -> LabelMap:
    """The map that a set names.

    Args:
        given: a name of NAMED, a file below `folder`, or None for the set's own classes.
        folder: the set's.
        classes: that are told, the set's.
        labels: of the part's images.

    Raises:
        ValueError: neither a name nor a file, or a broken file; the message names it.
    """
    if given is None or given in NAMED:
        rule, extent = NAMED[given or "identity"]
        labelled = {canonical(label) for each in labels for label in each}
        kept = [name for name in classes if extent == "all" or canonical(name) in labelled]
        return LabelMap(rule, {name: (name,) for name in kept})
    if not (folder / given).is_file():
        raise ValueError(f"the label map {given!r} is no file in {folder}, and none of {', '.join(NAMED)}")
    return read_map(folder / given)


def read_map(path: Path) -> LabelMap:
    """Reads a map; see the module for the two forms.

    Raises:
        ValueError: it is broken; the message names the file.
    """
    if path.suffix.lower() != ".json":
        return LabelMap("restrict", {name: (name,) for name in read_names(path)})
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        require(
            isinstance(values, dict) and set(values) == {"rule", "classes"}, "expected an object of rule and classes"
        )
        table = values["classes"]
        require(isinstance(table, dict), f"classes is {table!r}; expected an object")
        for name, told in table.items():
            texts = isinstance(told, list) and all(isinstance(each, str) for each in told)
            require(texts, f"{name!r} has {told!r}; expected a list of class names")
        return LabelMap(values["rule"], {name: tuple(told) for name, told in table.items()})
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error


def judge(
    label_map: LabelMap, logits: npt.ArrayLike, classes: Sequence[str], labels: Sequence[Sequence[str]]
) -> Judged:
    """Judges a classifier's logits by the labels of a part.

    Args:
        label_map: from the part's classes to those that the logits are of.
        logits: [n, k].
        classes: k names.
        labels: of n images, in the part's names.

    Raises:
        ValueError: a class that the logits or the map do not have, with the nearest names; images with another number
            of labels than one where the rule is not "any"; no image with a label; logits that are not finite.
    """
    values = np.asarray(logits)
    require(values.shape == (len(labels), len(classes)), f"{values.shape} logits; expected {len(labels), len(classes)}")
    require(bool(np.isfinite(values).all()), "some logits are not finite; the model has diverged")
    names = list(label_map.classes)
    told = [places(label_map.classes[name], classes, "the classifier's classes") for name in names]
    found = [places(each, names, "the label map's classes") for each in labels]
    if label_map.rule == "any":
        return _judge_any(values, told, found)
    wrong = next((index for index, each in enumerate(found) if len(each) != 1), None)
    if wrong is not None:
        raise ValueError(
            f"image {wrong} has {len(found[wrong])} labels; the rule {label_map.rule} takes one, and any takes several"
        )
    scores = np.stack([values[:, each].max(axis=1) for each in told], axis=1)
    targets = np.concatenate(found)
    share = float(np.bincount(targets).max() / len(targets))
    return Judged(np.arange(len(labels)), within(ranks(scores, targets), 1), share)


def places(names: Sequence[str], among: Sequence[str], what: str) -> Indices:
    """Where names stand among others, int64 [n]; equal but for case, blanks and underscores is equal.

    Raises:
        ValueError: a name is not there, or stands there twice; the message has the nearest, and calls them `what`.
    """
    known: dict[str, int] = {}
    for index, name in enumerate(among):
        key = canonical(name)
        require(key not in known, f"{name!r} stands twice in {what}; leave one out")
        known[key] = index
    for name in names:
        if canonical(name) not in known:
            near = difflib.get_close_matches(canonical(name), known, n=3) or list(known)[:3]
            raise ValueError(f"{name!r} is none of {what}; the nearest: {', '.join(among[known[key]] for key in near)}")
    return np.asarray([known[canonical(name)] for name in names], np.int64)


def _judge_any(values: npt.NDArray[Any], told: Sequence[Indices], found: Sequence[Indices]) -> Judged:
    kept = np.asarray([index for index, each in enumerate(found) if len(each)], np.int64)
    require(len(kept) > 0, "no image of the part has a label; the rule any leaves out those without")
    right = np.zeros((len(kept), values.shape[1]), bool)
    for row, index in enumerate(kept):
        for label in found[index]:
            right[row, told[label]] = True
    answers = values[kept].argmax(axis=1)
    return Judged(kept, right[np.arange(len(kept)), answers].astype(np.float64), float(right.mean(axis=0).max()))
