"""Effective robustness: how much better a model is on a shifted set than its accuracy on the unshifted one lets expect.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. What can be expected is a
line through reference models in the plane of both accuracies, each on the logit scale (Taori et al. 2020;
Miller et al. 2021). The reference models are the user's: one model has no line.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.special import expit, logit

LEAST = 1e-6  # shares nearer to 0 or 1 than this are taken to be so near: their logit would not be finite


@dataclasses.dataclass(frozen=True)
class ReferenceLine:
    """logit(accuracy on the shifted set) = slope * logit(accuracy on the base set) + intercept.

    Attributes:
        slope, intercept: of the line.
        models: how many it was fitted to.
        source: where their accuracies are from.
    """

    slope: float
    intercept: float
    models: int
    source: str

    @classmethod
    def through(cls, points: Sequence[Sequence[float]], source: str) -> Self:
        """The least-squares line on the logit scale.

        Args:
            points: pairs of accuracies on the base and the shifted set, shares of 1; two or more.
            source: where they are from.

        Raises:
            ValueError: fewer than two points with different base accuracies, or one that is no pair of shares.
        """
        if any(len(point) != 2 or not all(0 <= share <= 1 for share in point) for point in points):
            raise ValueError("a point of the reference line is no pair of shares [base, shift] from 0 to 1")
        if len({point[0] for point in points}) < 2:
            raise ValueError("a reference line needs two models or more with different accuracies on the base set")
        base, shift = _logit(np.asarray(points, np.float64)).T
        slope, intercept = np.polyfit(base, shift, 1)
        return cls(float(slope), float(intercept), len(points), source)

    def predicted(self, base: float) -> float:
        """The accuracy on the shifted set that a model with the base accuracy is expected to have."""
        return float(expit(self.slope * _logit(np.asarray(base)) + self.intercept))

    def effective_robustness(self, base: float, shift: float) -> float:
        """The accuracy on the shifted set less the expected one, a difference of shares: more is more robust."""
        return shift - self.predicted(base)


def read_line(path: Path) -> ReferenceLine:
    """Reads reference models: {"points": [[base, shift], ...], "source": text}.

    Raises:
        ValueError: it is broken; the message names the file.
    """
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or set(values) != {"points", "source"}:
            raise ValueError("expected an object of points and source")
        return ReferenceLine.through(values["points"], str(values["source"]))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _logit(shares: np.ndarray) -> np.ndarray:
    return logit(np.clip(shares, LEAST, 1 - LEAST))
