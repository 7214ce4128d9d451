"""Rows and plots of one protocol on one part: shares with Wilson's interval, means with a bootstrap's, other numbers.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from train.evaluation_sets.reading import EvaluationSet
from train.evaluators.intervals import Interval, bootstrap, wilson
from train.suite.outcome import Better, Plot, PlotKind, Row

WILSON, BOOTSTRAP = "Wilson", "bootstrap over images"


@dataclasses.dataclass(frozen=True)
class Rows:
    """Makes the rows and plots of one protocol on one part.

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
        assert np.isin(values, (0, 1)).all(), f"{metric} has scores that are neither 0 nor 1, and is no share"
        interval = wilson(int(values.sum()), len(values))
        return self._of_scores(metric, values, chance, "more", interval, WILSON, settings)

    def mean(
        self, metric: str, scores: npt.ArrayLike, chance: float | None, better: Better = "more", **settings: Any
    ) -> Row:
        """The mean of scores that are any numbers, with the interval of a bootstrap over the examples."""
        values = np.asarray(scores, np.float64)
        return self._of_scores(metric, values, chance, better, bootstrap(values), BOOTSTRAP, settings)

    def number(
        self,
        metric: str,
        value: float,
        better: Better,
        examples: int,
        chance: float | None = None,
        interval: Interval | None = None,
        interval_kind: str | None = None,
        **settings: Any,
    ) -> Row:
        """A number that is no mean over the examples; see Row for the arguments."""
        return Row(
            protocol=self.protocol,
            data=self.data,
            metric=metric,
            value=value,
            better=better,
            examples=examples,
            chance=chance,
            interval=interval,
            interval_kind=interval_kind,
            synthetic=self.set.synthetic,
            settings=settings,
        )

    def plot(self, kind: PlotKind, title: str, **values: Any) -> Plot:
        """A plot; see Plot for the values of each kind."""
        return Plot(self.protocol, self.data, kind, title, values)

    def _of_scores(
        self,
        metric: str,
        values: npt.NDArray[np.float64],
        chance: float | None,
        better: Better,
        interval: Interval,
        kind: str,
        settings: dict[str, Any],
    ) -> Row:
        row = self.number(metric, float(values.mean()), better, len(values), chance, interval, kind, **settings)
        return dataclasses.replace(row, scores=tuple(values.tolist()))
