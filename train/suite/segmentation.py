"""Semantic segmentation: heads on frozen patch tokens, by how much of the data they learn from, and a tuned tower.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from flax import nnx

from train.evaluation_sets.reading import EvaluationSet
from train.evaluators import segmentation as measures
from train.evaluators.descent import Descent, Learner, descend
from train.evaluators.grids import Floats, Standard, Standardised
from train.evaluators.intervals import bootstrap_of
from train.evaluators.segmenters import KINDS, cross_entropy, predicted, segmenter, training_labels
from train.suite import overlays
from train.suite.context import Context
from train.suite.dense_targets import Targets, masks
from train.suite.outcome import CannotRun, Outcome, Plot, Row
from train.suite.protocol import Protocol
from vit22b.checkpoint import load
from vit22b.image import image_batches
from vit22b.model import abstract, normalise
from vit22b.preprocess import Preprocess
from vit22b.tree import Params

FROZEN, TUNED = "segmentation/1", "segmentation-tuned/1"
FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
TUNING_RATE = 5e-4
_AT_ONCE = 256  # images decoded, or asked of a tuned tower


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a head said of the test part.

    Attributes:
        found: the class of every pixel, uint8 [h, w], of the images that are shown, by their place in the part.
        counts: int64 [n, k, k], the confusions of each image.
    """

    found: Mapping[int, npt.NDArray[np.uint8]]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, logits: Iterable[Floats], test: Targets, classes: int) -> "Measured":
        """Measures logits, parts [some, g, g, k] of the test images in order, at the labels' own resolution."""
        places, shown, counts = overlays.places(len(test)), {}, []
        each_of = itertools.chain.from_iterable(logits)
        for place, (each, label) in enumerate(zip(each_of, test.maps, strict=True)):
            found = predicted(each, label.shape)
            counts.append(measures.confusion(label, found, classes))
            if place in places:
                shown[place] = found
        return cls(shown, np.stack(counts))


def frozen(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """A linear head and a light decoder on the tokens, learnt from 1/16 of the training images up to all."""
    train, test = _parts(context, described)
    tokens, standard = _standardised(context, train)
    tests = Standardised(context.tokens(test.files), standard)
    labels = training_labels(train.maps, tokens.shape[1])
    order = np.random.default_rng(0).permutation(len(train))
    taken = {fraction: max(1, round(fraction * len(train))) for fraction in FRACTIONS}
    series: dict[str, list[float]] = {}
    for kind in KINDS:
        head = segmenter(kind, tokens.shape[2], len(described.classes), context.effort.decoder_steps)
        for fraction, count in taken.items():
            said = head.parts(head.fit((tokens,), labels, order[:count]), (tests,))
            measured = Measured.of(said, test, len(described.classes))
            settings = {**head.settings, "fraction": fraction, "training images": count}
            found = list(_rows(FROZEN, described, test, measured, settings))
            series.setdefault(kind, []).append(found[0].value)
            yield from found if fraction == 1 else found[:1]
    yield Plot(
        FROZEN,
        described.name,
        "curve",
        "Segmentation by the share of the training images",
        {
            "x": list(FRACTIONS),
            "x_label": "share of the training images",
            "series": series,
            "deviations": None,
            "y_label": "mIoU",
            "log_x": True,
        },
    )
    yield _bars(described, measured, kind)
    yield _overlay(FROZEN, described, test, measured, f"Segmentation by a {kind} on frozen tokens")


def tuned(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """The whole tower is trained with the head, from where the head has learnt on frozen tokens."""
    if context.tower.checkpoint is None:
        raise CannotRun("a served model's weights are not at hand; judge its checkpoint to see it fine-tuned")
    if not context.effort.fine_tune_steps:
        raise CannotRun("--fine_tune_steps is 0, so that no tower is tuned; give some")
    train, test = _parts(context, described)
    tokens, standard = _standardised(context, train)
    labels = training_labels(train.maps, tokens.shape[1])
    for kind in KINDS:
        head = segmenter(kind, tokens.shape[2], len(described.classes), context.effort.decoder_steps)
        tower = TunedTower(context, head, standard)
        start = head.fit((tokens,), labels)
        logits, descent = tower.fit_and_ask(start, train, labels, test, context.effort.fine_tune_steps)
        measured = Measured.of(logits, test, len(described.classes))
        settings = {**head.settings, "fraction": 1.0, "training images": len(train), "tuning": descent.summary}
        yield from _rows(TUNED, described, test, measured, settings)
    yield _overlay(TUNED, described, test, measured, f"Segmentation by a tuned tower with a {kind}")


class TunedTower:
    """An image tower and a head on its tokens, trained together."""

    def __init__(self, context: Context, head: Learner, standard: Standard) -> None:
        """Reads the tower's checkpoint."""
        assert context.tower.checkpoint is not None  # the caller has checked it
        trained = load(context.tower.checkpoint)
        self._graph, self._shapes = abstract(trained.description.config)
        self._image, self._preprocess = trained.params["image"], trained.description.preprocess
        self._head, self._standard = head, standard

    def logits(self, params: Params, pixels: jax.Array) -> jax.Array:
        """Of the head, for uint8 [B, R, R, 3]."""
        network = nnx.merge(self._graph, {**self._shapes, "image": params["image"]})
        tokens = network.image(normalise(pixels, self._preprocess))["tokens"]
        return self._head.outputs(params["head"], self._standard(tokens))

    def loss(self, params: Params, pixels: jax.Array, labels: jax.Array) -> jax.Array:
        """Of a batch."""
        return cross_entropy(self.logits(params, pixels), labels)

    def fit_and_ask(
        self, head: Params, train: Targets, labels: npt.NDArray[np.uint8], test: Targets, steps: int
    ) -> tuple[Iterator[Floats], Descent]:
        """Trains from the tower's weights and the head's, and gives the logits of the test images, part by part."""
        descent = Descent(steps, TUNING_RATE, decay=0.01)
        start = {"image": self._image, "head": head}
        params = descend(self.loss, start, (Pixels(train.files, self._preprocess), labels), descent)
        ask = jax.jit(self.logits)
        pixels = image_batches(test.files, self._preprocess, _AT_ONCE)
        return (np.asarray(ask(params, some)) for some in pixels), descent


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Images uint8 [n, R, R, 3] that are decoded as they are taken: a large set's do not fit into memory."""

    files: Sequence[Path]
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        (found,) = image_batches([self.files[row] for row in rows], self.preprocess, len(rows))
        return found


def _parts(context: Context, described: EvaluationSet) -> tuple[Targets, Targets]:
    preprocess = context.tower.preprocess
    return masks(described.part("train"), preprocess), masks(described.part("test"), preprocess)


def _standardised(context: Context, train: Targets) -> tuple[Standardised, Standard]:
    tokens = context.tokens(train.files)
    standard = Standard.of(tokens)
    return Standardised(tokens, standard), standard


def _rows(
    protocol: str, described: EvaluationSet, test: Targets, measured: Measured, settings: Mapping[str, Any]
) -> Iterator[Row]:
    """The mean IoU with its interval, then both accuracies."""
    counts = measured.counts.sum(axis=0)
    found, chance = measures.scores(counts), measures.constant(counts)
    mean = bootstrap_of(lambda drawn: float(measures.mean_iou(measured.counts[drawn].sum(axis=0))), len(test))
    row = functools.partial(
        Row,
        protocol,
        described.name,
        better="more",
        examples=len(test),
        synthetic=described.synthetic,
        settings={
            **settings,
            "resolution": f"{test.resolution}, the labels' own",
            "pixels": test.pixels,
            "mean over": "classes that occur in labels or predictions",
        },
    )
    yield row("mIoU", found.mean_iou, chance=chance.mean_iou, interval=mean, interval_kind="bootstrap over images")
    yield row("pixel accuracy", found.pixel_accuracy, chance=chance.pixel_accuracy)
    yield row("mean class accuracy", found.class_accuracy, chance=chance.class_accuracy)


def _bars(described: EvaluationSet, measured: Measured, kind: str) -> Plot:
    ious = measures.scores(measured.counts.sum(axis=0)).ious
    there = np.flatnonzero(np.isfinite(ious))
    names = [described.classes[index] for index in there]
    values = {"names": names, "values": ious[there].tolist(), "intervals": None, "label": "IoU"}
    return Plot(FROZEN, described.name, "bars", f"IoU of each class, by a {kind} on frozen tokens", values)


def _overlay(protocol: str, described: EvaluationSet, test: Targets, measured: Measured, title: str) -> Plot:
    colours = overlays.palette(described)
    rows = []
    for index in overlays.places(len(test)):
        picture = test.picture(index)
        maps = (test.maps[index], measured.found[index])
        rows.append([picture, *(overlays.blended(picture, each, colours) for each in maps)])
    return Plot(protocol, described.name, "overlays", title, {"rows": rows, "columns": ["image", "label", "found"]})


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        FROZEN,
        "Semantic segmentation, frozen tower",
        "segmentation",
        "Section 4.2, semantic segmentation",
        "Mean intersection over union of a linear head and of a light decoder (two 3x3 convolutions, four times the "
        "grid) on frozen patch tokens, standardised by all training images, learnt by cross-entropy from 1/16, 1/8, "
        "1/4, 1/2 and all of them. Logits are resized bilinearly to the labels' own resolution; pixels are counted "
        "over the whole test part, void ones left out; the mean is over classes that occur in labels or predictions. "
        "Chance is the best constant class.",
        frozen,
    ),
    Protocol(
        TUNED,
        "Semantic segmentation, tuned tower",
        "segmentation",
        "Section 4.2, semantic segmentation; Kumar et al. 2022 on starting from a head that was fitted first",
        "The same measure where the whole tower is trained with the head by AdamW, on all training images, from where "
        "the head has learnt on frozen tokens.",
        tuned,
    ),
)
