"""The figures that the paper gives for its protocols, to stand beside ours.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. They are of ViT-22B
(Dehghani et al. 2023), or of what was made with it, on the paper's data. Ours are of other sizes on other data: what
can be compared is what is measured, and not how well a model does.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from train.suite.outcome import Row

NOTE = (
    "The paper's figures are of ViT-22B, trained on some four billion images and tested on the data named; sizes and "
    "data differ from the ones here. They say what the protocol gives for the paper's model, and are no yardstick for "
    "this one."
)
RECALLED = "recalled, not checked against the paper"


@dataclasses.dataclass(frozen=True)
class PaperFigure:
    """One figure of the paper's.

    Attributes:
        protocol: id of our protocol for the same measure; the figure is left out once a definition gets a new number.
        metric: of our rows.
        on: the paper's data and, where several were judged, the model.
        value: in the unit of our metric.
        checked: whether it was compared with a public source; otherwise it is recalled, and shown as such.
        settings: of our row, that say which of several forms it is; every one must agree.
    """

    protocol: str
    metric: str
    on: str
    value: float
    checked: bool = True
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def belongs_to(self, row: Row) -> bool:
        """Whether a row measures the same."""
        agrees = all(row.settings.get(name) == value for name, value in self.settings.items())
        return (self.protocol, self.metric) == (row.protocol, row.metric) and agrees


PAPER_FIGURES = (
    PaperFigure("linear-probe/1", "top1", "ImageNet", 0.895),
    PaperFigure("linear-probe/1", "top1", "ImageNet ReaL", 0.909, checked=False),
    PaperFigure("out-of-distribution/1", "top1 (probe)", "ImageNet-V2", 0.832, checked=False),
    PaperFigure("out-of-distribution/1", "top1 (probe)", "ImageNet-A", 0.838, checked=False),
    PaperFigure("out-of-distribution/1", "top1 (probe)", "ImageNet-R", 0.874, checked=False),
    PaperFigure("zero-shot/1", "top1", "ImageNet", 0.859),
    PaperFigure("out-of-distribution/1", "top1 (zero-shot)", "ImageNet-V2", 0.809),
    PaperFigure("out-of-distribution/1", "top1 (zero-shot)", "ImageNet-R", 0.960),
    PaperFigure("out-of-distribution/1", "top1 (zero-shot)", "ImageNet-A", 0.901),
    PaperFigure("out-of-distribution/1", "top1 (zero-shot)", "ObjectNet", 0.876),
    PaperFigure("distillation/1", "top1, distilled", "ImageNet, B/16", 0.886),
    PaperFigure("distillation/1", "top1, distilled", "ImageNet, L/16", 0.896),
    PaperFigure("segmentation/1", "mIoU", "ADE20k, linear", 0.346, False, {"head": "linear", "fraction": 1}),
    PaperFigure("segmentation/1", "mIoU", "ADE20k, decoder", 0.527, False, {"head": "decoder", "fraction": 1}),
    PaperFigure("segmentation-tuned/1", "mIoU", "ADE20k", 0.553, False, {"head": "decoder"}),
    PaperFigure("depth/1", "AbsRel", "DPT", 0.095, False, {"head": "DPT", "align": "none"}),
    PaperFigure("depth/1", "AbsRel", "linear", 0.166, False, {"head": "linear", "align": "none"}),
    PaperFigure("video/1", "top1", "Kinetics-400", 0.880),
    PaperFigure("shape-bias/1", "shape_bias", "cue-conflict images (people: 96%)", 0.87),
)


def paper_figures(row: Row) -> tuple[PaperFigure, ...]:
    """What the paper gives for the measure of a row."""
    return tuple(figure for figure in PAPER_FIGURES if figure.belongs_to(row))
