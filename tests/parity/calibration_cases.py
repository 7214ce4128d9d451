"""Expected calibration errors of netcal against ours (train/evaluators/calibration.py), on random answers.

netcal imports torch, which is why this runs here. Its bins of equal mass end at interpolated quantiles and ours at
ranks; the two are the same bins where the number of images is a multiple of that of the bins and no two are equally
sure, as here.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from netcal.metrics import ECE
from rich.table import Table

from train.evaluators.calibration import BINS, Binning, confidences, ece, log_probabilities
from vit22b import program

TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class CalibrationCase:
    """Logits of `images` images for `classes` classes, drawn with a deviation; targets are drawn evenly or by them."""

    name: str
    images: int
    classes: int
    deviation: float
    informed: bool


def report(cases: Sequence[CalibrationCase]) -> list[dict[str, Any]]:
    """Compares them and prints the table."""
    table = Table("answers", "ECE, equal width", "equal mass", "max abs error", "verdict", title="parity with netcal")
    results = []
    for case in cases:
        ours, theirs = compare(case)
        errors = {binning: abs(ours[binning] - theirs[binning]) for binning in ours}
        verdict = "ok" if np.max([*errors.values()]) <= TOLERANCE else "OFF"
        values = [f"{value:.4f}" for value in ours.values()]
        table.add_row(case.name, *values, f"{np.max([*errors.values()]):.1e}", verdict)
        results.append({"family": "netcal", "model": case.name, "max_abs_error": errors, "verdict": verdict})
    program.table_console().print(table)
    return results


def compare(case: CalibrationCase) -> tuple[dict[str, float], dict[str, float]]:
    """Our errors and netcal's, by binning."""
    assert case.images % BINS == 0, case
    random = np.random.default_rng(case.images)
    logits = case.deviation * random.normal(size=(case.images, case.classes))
    noise = random.gumbel(size=logits.shape)
    targets = ((logits if case.informed else 0) + noise).argmax(1)
    ours = {binning: ece(*confidences(logits, targets), binning) for binning in get_args(Binning)}
    probabilities = np.exp(log_probabilities(logits))
    theirs = {
        binning: ECE(BINS, equal_intervals=binning == "width").measure(probabilities, targets) for binning in ours
    }
    return ours, theirs


CASES = (
    CalibrationCase("10 classes, calibrated", 3000, 10, 2.0, informed=True),
    CalibrationCase("10 classes, sure of nothing true", 3000, 10, 2.0, informed=False),
    CalibrationCase("3 classes, nearly certain", 600, 3, 12.0, informed=True),
    CalibrationCase("100 classes, hesitant", 1500, 100, 0.3, informed=False),
    CalibrationCase("an image in each bin", 15, 4, 1.0, informed=True),
)
