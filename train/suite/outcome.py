"""What a protocol gives: rows, each one number with all that is needed to read it, and plots.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. train/reports shows it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from vit22b.report_rows import ReportRow

Better = Literal["more", "less", "neither"]
PlotKind = Literal["curve", "reliability", "confusion", "overlays", "bars"]


@dataclasses.dataclass(frozen=True)
class Row(ReportRow):
    """One number, as its protocol gives it; vit22b.report_rows.ReportRow has the fields that a report is read by.

    Attributes:
        scores: one number for each example whose mean is `value`, in the order of the part, for paired comparisons;
            None where the value is no such mean.
    """

    better: Better
    scores: tuple[float, ...] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):  # in the protocol that made it, so that the others' rows are not lost
            raise ValueError(f"{self.metric} on {self.data} is {self.value}, which is no number")

    @property
    def beats_chance_by(self) -> float | None:
        """How much better than chance the value is, in its own unit; negative where worse, None without a chance."""
        if self.chance is None or self.better == "neither":
            return None
        return self.value - self.chance if self.better == "more" else self.chance - self.value


@dataclasses.dataclass(frozen=True)
class Plot:
    """What a picture of the report is drawn of; plain values and arrays.

    Attributes:
        protocol, data: as of a row.
        kind: decides what `values` holds:
            curve: x [k] (with x_label), series {name: [k]}, deviations {name: [k]} or None, y_label, log_x: bool
            reliability: bins [{low, high, confidence, accuracy, count}], ece
            confusion: classes [k], counts [k][k], row true and column found
            overlays: rows of pictures: [[uint8 array [h, w, 3], ...], ...], columns [titles]
            bars: names [k], values [k], intervals [k][2] or None, label
        title: of the picture.
        values: see kind.
    """

    protocol: str
    data: str
    kind: PlotKind
    title: str
    values: Mapping[str, Any]


Outcome = Row | Plot


class CannotRun(Exception):  # noqa: N818 (it is no error: the report says so and goes on)
    """A protocol that this tower or this set has not what it needs for; the message says what and how to get it."""
