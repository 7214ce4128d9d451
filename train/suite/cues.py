"""Shape bias: whether shape or texture decides, on images where the two are of different things.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. What the numbers mean is
in train/evaluators/shape_bias.py.
"""

import dataclasses
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from train.evaluation_sets.reading import SET_FILE, EvaluationSet, Part
from train.evaluators import shape_bias
from train.evaluators.calibration import log_probabilities
from train.evaluators.features import Indices
from train.evaluators.intervals import bootstrap_of, wilson
from train.evaluators.zero_shot import cosines
from train.suite.banks import class_bank
from train.suite.context import Context
from train.suite.human_answers import Answers, read_answers
from train.suite.outcome import CannotRun, Outcome, Row
from train.suite.parts import neighbour, test_part
from train.suite.probes import fitted
from train.suite.protocol import Protocol
from train.suite.rows import BOOTSTRAP, WILSON, Rows

SHAPE_BIAS, CONSISTENCY = "shape-bias/1", "error_consistency"
CLASSIFIER = "classifier_set"  # the detail that names the set whose probe decides
HUMANS = "humans"  # the detail that names the table of people's answers


@dataclasses.dataclass(frozen=True)
class Conflict:
    """The images of a set of cues.

    Attributes:
        part: that they are.
        categories: c names.
        shapes, textures: int64 [n], their categories.
    """

    part: Part
    categories: tuple[str, ...]
    shapes: Indices
    textures: Indices


def decided(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """Shape bias of the probe of another set, and of the text tower that is given the categories' names.

    Where the model has no text tower the second is left out, and where the set has no table of people's answers the
    consistency with them.
    """
    conflict = _conflict(described)
    answers = _answers(conflict)
    deciders = {"probe": _probe_decides(context, conflict)}
    if context.tower.config.text is not None:
        deciders["zero-shot"] = _names_decide(context, conflict)
    undecided = []
    for name, decisions in deciders.items():
        if not (yield from _bias(conflict, name, decisions)):
            undecided.append(name)
        yield from _consistency(conflict, name, decisions, answers)
    if undecided:
        raise CannotRun(
            f"no decision of {' and '.join(undecided)} on {described.name} is for the shape or for the texture: "
            "there is no shape bias; a classifier that knows the categories is needed"
        )


def _bias(conflict: Conflict, decider: str, decisions: Indices) -> Generator[Outcome, None, bool]:
    """Gives whether there is a bias: any decision for one of the cues."""
    rows, categories = Rows(SHAPE_BIAS, conflict.part.set), conflict.categories
    found = shape_bias.count(decisions, conflict.shapes, conflict.textures)
    by_cue = found.shape + found.texture
    settings = {"classifier": decider, "categories": len(categories)}
    chance, interval = 2 / len(categories), wilson(by_cue, found.images)
    yield rows.number("cue_decisions", found.decided, "more", found.images, chance, interval, WILSON, **settings)
    if not by_cue:
        return False
    interval = wilson(found.shape, by_cue)
    yield rows.number("shape_bias", found.bias, "more", by_cue, None, interval, WILSON, **settings)
    each = shape_bias.by_category(decisions, conflict.shapes, conflict.textures, categories)
    shown = {name: of for name, of in each.items() if of.shape + of.texture}
    values = [of.bias for of in shown.values()]
    intervals = [wilson(of.shape, of.shape + of.texture) for of in shown.values()]
    title = f"Shape bias by the shape's category ({decider})"
    yield rows.plot("bars", title, names=list(shown), values=values, intervals=intervals, label="shape bias")
    return True


def _consistency(conflict: Conflict, decider: str, decisions: Indices, answers: Answers) -> Iterator[Row]:
    """Error consistency with each observer, on the images that this one answered, and the mean over observers.

    An answer is right where it is the shape's category. Observers with whom chance alone explains every agreement are
    left out; the mean says how many it is of.
    """
    rows = Rows(SHAPE_BIAS, conflict.part.set)
    right = dict(zip(_names(conflict.part), (decisions == conflict.shapes).tolist(), strict=True))
    truth = dict(zip(_names(conflict.part), conflict.shapes, strict=True))
    settings: dict[str, Any] = {"classifier": decider}
    kappas: list[float] = []
    for observer, given in answers.items():
        ours = np.asarray([right[image] for image in given])
        theirs = np.asarray([answer == conflict.categories[truth[image]] for image, answer in given.items()])
        kappa = shape_bias.error_consistency(ours, theirs)
        if np.isfinite(kappa):
            kappas.append(kappa)
            interval = bootstrap_of(
                lambda drawn, a=ours, b=theirs: shape_bias.error_consistency(a[drawn], b[drawn]), len(ours)
            )
            told = {**settings, "observer": observer}
            yield rows.number(CONSISTENCY, kappa, "more", len(ours), 0.0, interval, BOOTSTRAP, **told)
    if kappas:
        told = {**settings, "observer": "mean", "observers": len(kappas)}
        yield rows.number(CONSISTENCY, float(np.mean(kappas)), "more", len(right), 0.0, **told)


def _probe_decides(context: Context, conflict: Conflict) -> Indices:
    """By the probe of the set that set.json names; its probabilities are averaged in each category."""
    described = conflict.part.set
    if CLASSIFIER not in described.details:
        raise CannotRun(
            f"the set {described.name} names no classifier of its classes; give details.{CLASSIFIER} in {SET_FILE}: "
            'the folder of a classification set, relative to its own, such as "../emoji"'
        )
    other = neighbour(described, CLASSIFIER, str(described.details[CLASSIFIER]))
    places = {name: place for place, name in enumerate(conflict.categories)}
    held = [places.get(described.categories.get(name, ""), -1) for name in other.classes]
    if missing := [name for place, name in enumerate(conflict.categories) if place not in held]:
        raise CannotRun(
            f"{other.name} has no class of the categories {', '.join(missing)} of {described.name}; name another set "
            f"in details.{CLASSIFIER}, or the categories of its classes in `categories`"
        )
    logits = fitted(context, other).logits(context.pooled(conflict.part.files))
    probabilities = np.exp(log_probabilities(logits))
    return shape_bias.decide(shape_bias.category_scores(probabilities, held, len(conflict.categories)))


def _names_decide(context: Context, conflict: Conflict) -> Indices:
    """By the cosine of image and category's name in the set's templates."""
    bank = class_bank(context, conflict.categories, conflict.part.set.templates)
    return shape_bias.decide(cosines(context.embeddings(conflict.part.files), bank))


def _conflict(described: EvaluationSet) -> Conflict:
    """The test part.

    Raises:
        ValueError: a cue that is no class, or a class without a category.
    """
    part = test_part(described)
    categories = tuple(dict.fromkeys(described.categories.values()))
    places = {name: place for place, name in enumerate(categories)}
    cues = {}
    for cue in ("shape", "texture"):
        named = part.column(cue)
        for file, name in zip(part.files, named, strict=True):
            if name not in described.classes or name not in described.categories:
                raise ValueError(
                    f"{file} has the {cue} {name!r}; expected one of the classes of {described.folder / SET_FILE}, "
                    "with a category in its `categories`"
                )
        cues[cue] = np.asarray([places[described.categories[name]] for name in named], np.int64)
    if not (cues["shape"] != cues["texture"]).any():
        raise CannotRun(f"no image of {part.folder} has shape and texture of different categories; add such images")
    return Conflict(part, categories, cues["shape"], cues["texture"])


def _answers(conflict: Conflict) -> Answers:
    """What people said, where the set has a table; else nothing."""
    described = conflict.part.set
    if HUMANS not in described.details:
        return {}
    truth = {
        name: conflict.categories[place] for name, place in zip(_names(conflict.part), conflict.shapes, strict=True)
    }
    return read_answers(described.folder / str(described.details[HUMANS]), truth, conflict.categories)


def _names(part: Part) -> tuple[str, ...]:
    """File names as tables have them, relative to the part."""
    return tuple(file.relative_to(part.folder).as_posix() for file in part.files)


PROTOCOLS = (
    Protocol(
        SHAPE_BIAS,
        "Shape bias",
        "cues",
        "section 4.5; Geirhos et al. 2019, 2020, 2021",
        "Among the decisions for the category of the shape or of the texture, the share of those for the shape; images "
        "whose two cues are of one category are left out. The probe of another set decides, by the mean probability of "
        "the classes in each category, and the text tower by the categories' names. With a table of people's answers, "
        "error consistency (Cohen's kappa of where model and observer err).",
        decided,
    ),
)
