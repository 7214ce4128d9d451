"""Classification: probes, few shots and neighbours on frozen features, zero-shot, retrieval, and the model's own head.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from sklearn.metrics import confusion_matrix

from train.evaluation_sets.reading import EvaluationSet
from train.evaluators import few_shot, head, nearest_neighbours, retrieval, zero_shot
from train.evaluators.accuracy import guessed, ranks, within
from train.evaluators.linear_probe import fit_ridge, fit_sgd
from train.suite.banks import class_bank, require_texts
from train.suite.context import Context
from train.suite.outcome import CannotRun, Outcome
from train.suite.parts import test_part, training_part
from train.suite.probes import fitted
from train.suite.protocol import Protocol
from train.suite.rows import Rows
from vit22b.prompts import find_templates

LINEAR_PROBE, FEW_SHOT, NEAREST_NEIGHBOURS = "linear-probe/1", "few-shot/1", "nearest-neighbours/1"
ZERO_SHOT, RETRIEVAL, HEAD = "zero-shot/1", "retrieval/1", "head/1"


def linear_probe(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """Three linear classifiers of the pooled features, and the confusions of the one that others build on."""
    train, test = training_part(described), test_part(described)
    features, targets, wanted = context.pooled(train.files), train.targets, test.targets
    tests, classes = context.pooled(test.files), len(described.classes)
    rows = Rows(LINEAR_PROBE, described)
    last = fitted(context, described)  # says what is wrong with the part, before any other is fitted
    descended = fit_sgd(features, targets, classes, context.effort.probe_epochs, sources=train.sources).probe
    closed = fit_ridge(features, targets, classes, sources=train.sources).probe
    for name, probe in (("top1", descended), ("top1 (closed form)", closed), ("top1 (L-BFGS)", last)):
        right = within(ranks(probe.logits(tests), wanted), 1)
        yield rows.row(name, right, guessed(wanted), **probe.settings)
    answers = last.logits(tests).argmax(axis=1)
    counts = confusion_matrix(wanted, answers, labels=np.arange(classes))
    title = "Confusions of the linear probe (L-BFGS)"
    yield rows.plot("confusion", title, classes=list(described.classes), counts=counts.tolist())


def few_shots(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """Least squares on 1, 5, 10 and 25 images of each class, over seeds that choose them."""
    train, test = training_part(described), test_part(described)
    targets, wanted, seeds = train.targets, test.targets, context.effort.seeds
    features, tests = context.pooled(train.files), context.pooled(test.files)
    try:
        found = few_shot.evaluate(features, targets, tests, wanted, len(described.classes), seeds=seeds)
    except ValueError as error:
        raise CannotRun(f"there are no shots in {train.folder}: {error}") from error
    rows = Rows(FEW_SHOT, described)
    more = [shots for shots in few_shot.SHOTS if shots not in found.shots]
    settings = {"penalty": few_shot.PENALTY, **({"shots_left_out": more} if more else {})}
    for number, right, deviation in zip(found.shots, found.right, found.deviation, strict=True):
        name = f"top1 ({number} shot{'s' * (number > 1)})"
        row = rows.mean(name, right.mean(axis=0), guessed(wanted), shots=number, **settings)
        yield dataclasses.replace(row, deviation=float(deviation) if seeds > 1 else None, seeds=seeds)
    if len(found.shots) > 1:
        name = "ridge on whitened features"
        yield rows.plot(
            "curve",
            "Few-shot accuracy",
            x=list(found.shots),
            x_label="images of each class",
            series={name: found.mean.tolist()},
            deviations={name: found.deviation.tolist()} if seeds > 1 else None,
            y_label="top-1 accuracy",
            log_x=True,
        )


def neighbours(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """The nearest training images vote, by the pooled features."""
    train, test = training_part(described), test_part(described)
    targets, wanted = train.targets, test.targets
    features, tests = context.pooled(train.files), context.pooled(test.files)
    try:
        votes = nearest_neighbours.votes(features, targets, tests, len(described.classes))
    except ValueError as error:
        raise CannotRun(f"the images of {train.folder} cannot vote: {error}") from error
    settings = {
        "neighbours": min(nearest_neighbours.NEIGHBOURS, len(train)),
        "temperature": nearest_neighbours.TEMPERATURE,
    }
    yield Rows(NEAREST_NEIGHBOURS, described).row("top1", within(ranks(votes, wanted), 1), guessed(wanted), **settings)


def zero_shots(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """Class names in templates, as the text tower reads them."""
    test = test_part(described)
    wanted, bank = test.targets, class_bank(context, described.classes, described.templates)
    found = zero_shot.classify(context.embeddings(test.files), bank, wanted)
    rows, templates = Rows(ZERO_SHOT, described), len(find_templates(described.templates))
    yield rows.row("top1", found.top1, guessed(wanted), templates=templates)
    if len(described.classes) > 5:
        yield rows.row("top5", found.top5, guessed(wanted, 5), templates=templates)
    yield rows.mean("mean per-class recall", found.per_class, 1 / len(np.unique(wanted)), templates=templates)


def retrievals(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """Images are searched for by captions, and captions by images."""
    test = test_part(described)
    captioned = [place for place, caption in enumerate(test.captions) if caption]
    captions = [caption for caption in test.captions if caption]
    if not captions:
        raise CannotRun(f"no image of {test.folder} has a caption; give its lines one, or set retrieval to false")
    require_texts(context)
    right = retrieval.matches(captions, range(len(captions)), len(captions))
    files = [test.files[place] for place in captioned]
    similarities = zero_shot.cosines(context.embeddings(files), context.tower.texts(captions))
    rows = Rows(RETRIEVAL, described)
    directions = {"image to text": (similarities, right), "text to image": (similarities.T, right.T)}
    for direction, (values, matches) in directions.items():
        found = retrieval.ranked(values, matches)
        for top in retrieval.TOPS:
            if top < found.answers:
                yield rows.row(f"{direction} recall@{top}", found.recall(top), found.chance(top), answers=found.answers)


def own_head(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """The model's head as it was trained, on classes that are among its labels."""
    test, labels = test_part(described), context.tower.labels
    wanted = test.targets
    if not labels:
        raise CannotRun("the model has no head whose labels have names; a pretraining checkpoint has")
    try:
        head.restricted(np.zeros((0, len(labels))), labels, described.classes)
    except ValueError as error:
        raise CannotRun(f"the head does not know the classes of {described.name}: {error}") from error
    logits, rows = context.logits(test.files), Rows(HEAD, described)
    limited = ranks(head.restricted(logits, labels, described.classes), wanted)
    yield rows.row("top1 (classes of the set)", within(limited, 1), guessed(wanted), competing=len(described.classes))
    everything = head.unrestricted(logits, labels, described.classes, wanted)
    yield rows.row("top1 (all labels)", everything, guessed(wanted), competing=len(labels))


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        LINEAR_PROBE,
        "Linear probe",
        "classification",
        "section 4.2.1",
        "Top-1 accuracy of a linear classifier of the frozen, standardised pooled features: by SGD with momentum and a "
        "cosine schedule over 10 epochs, in closed form (least squares), and by L-BFGS (logistic regression). The "
        "learning rate or penalty is chosen by a fifth of the training images, views of one thing together, then "
        "all are fitted. Images are not augmented.",
        linear_probe,
    ),
    Protocol(
        FEW_SHOT,
        "Few-shot",
        "classification",
        "Zhai et al. 2022, as in big_vision",
        "Top-1 accuracy of least squares on the pooled features of 1, 5, 10 and 25 training images of each class, "
        "whitened by their mean and deviation, with a penalty of 1024: mean and deviation over seeds that choose them.",
        few_shots,
    ),
    Protocol(
        NEAREST_NEIGHBOURS,
        "Nearest neighbours",
        "classification",
        "Caron et al. 2021",
        "Top-1 accuracy where the 20 training images whose pooled features have the greatest cosine vote with "
        "exp(cosine / 0.07).",
        neighbours,
    ),
    Protocol(
        ZERO_SHOT,
        "Zero-shot",
        "classification",
        "section 4.2.2",
        "Accuracy where an image is of the class whose vector has the greatest cosine with its embedding. A vector is "
        "the mean of the unit vectors of the class's name in the set's templates, and the recall is averaged over the "
        "classes that occur.",
        zero_shots,
    ),
    Protocol(
        RETRIEVAL,
        "Image-text retrieval",
        "classification",
        "Karpathy and Fei-Fei 2015",
        "How often a right caption is among the 1, 5 or 10 nearest of all captions, and a right image of all images; a "
        "caption that is equal to a right one is right. Chance is what a random order is expected to reach.",
        retrievals,
        lambda described: described.retrieval,
    ),
    Protocol(
        HEAD,
        "The model's own head",
        "classification",
        "section 4.2",
        "Top-1 accuracy of the head as it was trained, on a set whose classes are among its labels by name: with the "
        "set's classes alone competing, and with all labels.",
        own_head,
    ),
)
