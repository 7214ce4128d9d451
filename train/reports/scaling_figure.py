"""Quality against size and compute: what the paper's first claim is about, in one figure.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.reports import figures
from train.reports.comparison import ComparedRow, Comparison


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is plotted: the first row of a protocol with a metric, on each set."""

    protocol: str
    metric: str
    title: str


MEASURES = (
    Measure("linear-probe/1", "top1", "linear probe, top-1"),
    Measure("zero-shot/1", "top1", "zero-shot, top-1"),
    Measure("shape-bias/1", "shape_bias", "shape bias"),
    Measure("calibration/1", "ece", "calibration error (less is better)"),
    Measure("fairness/1", "gap", "gap between subgroups (less is better)"),
)
AXES = (("image_parameters", "parameters of the image tower"), ("training_flops", "training compute, FLOP"))
_MOST_SETS = 6


def draw(comparison: Comparison, measures: Sequence[Measure] = MEASURES) -> Figure:
    """A row of panels against size, one against compute; a panel a measure, a line a set, dotted its chance.

    Call it within `figures.drawing`.

    A measure that no model has is left out, and a model whose training is not known is not in the second row.

    Raises:
        ValueError: none of the measures is there.
    """
    there = [measure for measure in measures if _lines(comparison, measure)]
    if not there:
        wanted = ", ".join(measure.protocol for measure in measures)
        raise ValueError(f"the reports have no row of {wanted}; evaluate the models by one of these")
    figure = Figure(figsize=(3.4 * len(there) + 0.4, 6.4), layout="constrained")
    panels = figure.subplots(len(AXES), len(there), squeeze=False, sharey="col")
    for across, (field, label) in zip(panels, AXES, strict=True):
        for panel, measure in zip(across, there, strict=True):
            _panel(panel, comparison, measure, field)
            panel.set_xlabel(label, fontsize=9)
            panel.set_title(measure.title, fontsize=10, loc="left")
    return figure


def description(comparison: Comparison, measures: Sequence[Measure] = MEASURES) -> str:
    """What the figure shows, in words and numbers."""
    parts = []
    for measure in measures:
        for line in _lines(comparison, measure):
            values = [
                f"{name} {'none' if value is None else f'{value:.3g}'}"
                for name, value in zip(comparison.names, line.values, strict=True)
            ]
            parts.append(f"{measure.title} on {line.data}: {', '.join(values)}")
    return "Quality by size and compute. " + "; ".join(parts)


def _lines(comparison: Comparison, measure: Measure) -> list[ComparedRow]:
    found: dict[str, ComparedRow] = {}
    for row in comparison.rows:
        if (row.protocol, row.metric) == (measure.protocol, measure.metric):
            found.setdefault(row.data, row)
    return list(found.values())[:_MOST_SETS]


def _panel(panel: Axes, comparison: Comparison, measure: Measure, field: str) -> None:
    places = [getattr(model, field) for model in comparison.models]
    for index, line in enumerate(_lines(comparison, measure)):
        points = [(x, y) for x, y in zip(places, line.values, strict=True) if x and y is not None]
        if points:
            figures.mark(panel, index, *np.array(sorted(points), float).T, line.data)
            if line.chance is not None:
                panel.axhline(line.chance, color=figures.colour(index), linestyle=":", linewidth=1)
    known = sorted({(x, name.split()[0]) for x, name in zip(places, comparison.names, strict=True) if x})
    if not known:
        panel.text(0.5, 0.5, "not known of these models", ha="center", transform=panel.transAxes, color=figures.PAGE)
        panel.set_xticks([])
        return
    panel.set_xscale("log")
    panel.minorticks_off()
    panel.set_xticks(
        [x for x, _ in known], [f"{name}, {_short(x)}" for x, name in known],
        rotation=35, ha="right", rotation_mode="anchor",
    )  # fmt: skip
    panel.grid(alpha=0.25)
    figures.legend(panel)


def _short(value: float) -> str:
    """A large number as an axis has room for it."""
    power = min(max((len(f"{value:.0f}") - 1) // 3, 0), 7)
    return f"{value / 1000**power:.3g}{' kMGTPEZ'[power].strip()}"
