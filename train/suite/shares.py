"""Rows of shares: how often a classifier was right on a part, with its interval and what guessing reaches.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from train.evaluation_sets.reading import EvaluationSet
from train.evaluators.intervals import bootstrap, wilson
from train.suite.outcome import Row


@dataclasses.dataclass(frozen=True)
class Shares:
    """Makes the rows of one protocol on one part.

    Attributes:
        protocol: its id.
        set: that the part belongs to.
        part: its name; the test part is left unsaid in a row.
    """

    protocol: str
    set: EvaluationSet
    part: str = "test"

    @property
    def data(self) -> str:
        """As a row names the part."""
        return self.set.name if self.part == "test" else f"{self.set.name}/{self.part}"

    def row(self, metric: str, scores: npt.ArrayLike, chance: float | None, **settings: Any) -> Row:
        """The mean of scores that are 0 or 1 for each example, with Wilson's interval."""
        values = np.asarray(scores, np.float64)
        return self._row(metric, values, chance, settings, wilson(int(values.sum()), len(values)), "Wilson")

    def mean(self, metric: str, scores: npt.ArrayLike, chance: float | None, **settings: Any) -> Row:
        """The mean of scores that are any numbers, with the interval of a bootstrap over the examples."""
        values = np.asarray(scores, np.float64)
        return self._row(metric, values, chance, settings, bootstrap(values), "bootstrap over images")

    def _row(
        self,
        metric: str,
        values: npt.NDArray[np.float64],
        chance: float | None,
        settings: Mapping[str, Any],
        interval: tuple[float, float],
        kind: str,
    ) -> Row:
        return Row(
            protocol=self.protocol,
            data=self.data,
            metric=metric,
            value=float(values.mean()),
            better="more",
            examples=len(values),
            chance=chance,
            interval=interval,
            interval_kind=kind,
            synthetic=self.set.synthetic,
            settings=dict(settings),
            scores=tuple(values.tolist()),
        )
