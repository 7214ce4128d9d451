"""A protocol: what it is called, what it measures, on what, and what runs it.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
from collections.abc import Callable, Iterator

from train.evaluation_sets.reading import EvaluationSet, Kind
from train.suite.context import Context
from train.suite.outcome import Outcome

Runs = Callable[[Context, EvaluationSet], Iterator[Outcome]]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A protocol of the paper's.

    Attributes:
        id: its name and the number of its definition: rows with different ids are never compared.
        title: for the report.
        kind: of the sets that it runs on.
        section: of the paper, Dehghani et al. 2023, or the source of the definition where it is another's.
        definition: what is measured, in a sentence or two.
        runs: gives its rows and plots on one set; raises CannotRun where tower or set lack what it needs.
        asks: whether a set is one that the protocol has anything to say of; sets that are not are left out.
    """

    id: str
    title: str
    kind: Kind
    section: str
    definition: str
    runs: Runs
    asks: Callable[[EvaluationSet], bool] = lambda _: True
