"""Depth from one image: heads on frozen patch tokens, of the last layer and of four.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from train.evaluation_sets.reading import EvaluationSet
from train.evaluators import depth as measures
from train.evaluators.depth_heads import KINDS, STAGES, Kind, depth_head, predicted, stages, training_depths
from train.evaluators.grids import Floats, Standard, Standardised
from train.suite import overlays
from train.suite.context import Context
from train.suite.dense_targets import Targets, depths
from train.suite.outcome import Outcome, Plot, Row
from train.suite.protocol import Protocol
from train.suite.rows import Rows

DEPTH = "depth/1"
Table = Mapping[measures.Align, Mapping[str, npt.NDArray[np.float64]]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a head said of the test part.

    Attributes:
        found: the depth of every pixel, float32 [h, w], of the images that are shown, by their place in the part.
        errors: of each image; see measures.table.
    """

    found: Mapping[int, Floats]
    errors: Table

    @classmethod
    def of(cls, logs: Iterable[Floats], test: Targets) -> "Measured":
        """Measures logarithms, parts [some, g, g, 1] of the test images in order, at the depths' own resolution."""
        places, shown = overlays.places(len(test)), {}

        def images() -> Iterator[tuple[Floats, Floats]]:
            each_of = itertools.chain.from_iterable(logs)
            for place, (each, true) in enumerate(zip(each_of, test.maps, strict=True)):
                found = predicted(each, true.shape)
                if place in places:
                    shown[place] = found
                yield found, true

        return cls(shown, measures.table(images()))


def frozen(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """A linear head on the last tokens, and DPT on those of four layers."""
    preprocess = context.tower.preprocess
    train, test = depths(described.part("train"), preprocess), depths(described.part("test"), preprocess)
    shown = {}
    usual = measures.constant(train.maps)
    guessed = measures.table((np.broadcast_to(usual, true.shape), true) for true in test.maps)
    for kind in KINDS:
        learnt, asked, settings = _inputs(context, kind, train, test)
        head = depth_head(kind, learnt[0].shape[2], usual, context.effort.decoder_steps)
        params = head.fit(learnt, training_depths(train.maps, learnt[0].shape[1]))
        measured = Measured.of(head.parts(params, asked), test)
        shown[kind] = measured.found
        yield from _rows(described, test, measured.errors, guessed, {**head.settings, **settings})
    yield _overlay(described, test, shown)


def _inputs(
    context: Context, kind: Kind, train: Targets, test: Targets
) -> tuple[tuple[Standardised, ...], tuple[Standardised, ...], dict[str, Any]]:
    """The standardised tokens that a head takes of both parts, and what to say of them."""
    if kind == "linear":
        given = [(context.tokens(train.files), context.tokens(test.files))]
        settings: dict[str, Any] = {"tokens": "behind the last norm"}
    else:
        given, settings = _layers(context, train, test)
    standards = [Standard.of(learnt) for learnt, _ in given]
    learnt = tuple(Standardised(each, standard) for standard, (each, _) in zip(standards, given, strict=True))
    asked = tuple(Standardised(each, standard) for standard, (_, each) in zip(standards, given, strict=True))
    return learnt, asked, settings


def _layers(context: Context, train: Targets, test: Targets) -> tuple[list[tuple[Floats, Floats]], dict[str, Any]]:
    """The tokens of four stages: of the layers that the tower answers, or where it answers none of its last tokens."""
    at_hand = context.effort.layers or context.tower.layers
    if not at_hand:
        pair = (context.tokens(train.files), context.tokens(test.files))
        return [pair] * STAGES, {"layers": "none is served; the tokens behind the last norm"}
    taken = stages(at_hand)
    different = tuple(dict.fromkeys(taken))
    learnt, asked = (context.layers(part.files, different) for part in (train, test))
    return [(learnt[layer], asked[layer]) for layer in taken], {"layers": ", ".join(map(str, different))}


def _rows(
    described: EvaluationSet, test: Targets, errors: Table, guessed: Table, settings: Mapping[str, Any]
) -> Iterator[Row]:
    rows = Rows(DEPTH, described)
    for align, found in errors.items():
        for name, scores in found.items():
            row = rows.mean(
                name,
                scores,
                float(guessed[align][name].mean()),
                align=align,
                **settings,
                resolution=f"{test.resolution}, the depths' own",
                pixels=test.pixels,
            )
            yield row if measures.MORE_IS_BETTER[name] else dataclasses.replace(row, better="less")


def _overlay(described: EvaluationSet, test: Targets, shown: Mapping[Kind, Mapping[int, Floats]]) -> Plot:
    rows = []
    for index in overlays.places(len(test)):
        true = test.maps[index]
        low, high = overlays.spread(true)
        maps = (true, *(found[index] for found in shown.values()))
        rows.append([test.picture(index), *(overlays.coloured(each, low, high) for each in maps)])
    title = "Depth from frozen tokens; yellow is far, in each row from its smallest to its largest depth"
    return Plot(DEPTH, described.name, "overlays", title, {"rows": rows, "columns": ["image", "depth", *shown]})


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        DEPTH,
        "Depth, frozen tower",
        "depth",
        "Section 4.2, monocular depth estimation; DPT: Ranftl et al. 2021",
        "Errors of the depth that a linear head says of frozen, standardised patch tokens, and DPT of those of four "
        "layers, resized bilinearly as logarithms to the depths' own resolution: MSE, RMSE, AbsRel and the shares of "
        "pixels within a factor of 1.1, 1.25 and 1.25^2, each over the valid pixels of an image and then over images; "
        "as they are (align none), and scaled to the median of the image's depths (align median). Chance is the median "
        "of the training depths, everywhere.",
        frozen,
    ),
)
