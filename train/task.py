"""What a program trains: all that the loop needs to know of it.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax

from train.evaluators import Evaluator
from train.input import Order
from train.state import Metrics, Step, TrainState
from vit22b.description import Description
from vit22b.tree import Params

Probe = Callable[[Params, Mapping[str, Any]], Metrics]


@dataclasses.dataclass(frozen=True)
class Work:
    """What an example costs, for the rates of a log.

    Attributes:
        tokens: of an example.
        flops: of training on it, by the definition of vit22b/flops.py.
    """

    tokens: int
    flops: float


@dataclasses.dataclass(frozen=True)
class Task:
    """What a program trains; the loop does the rest.

    Attributes:
        description: becomes the checkpoints' model.json.
        target: shapes and places of the trained state, as train.state.abstract_state gives them.
        locked: parameters that are saved beside the trained ones and never change.
        init: makes the first state.
        step: takes one step (see train.state.make_step).
        examples: how many there are.
        batches: the batches of an order, from its start on: the rows of them that this host holds.
        names: the names of the records that a step takes, for a message.
        learning_rate: of a step, for the log.
        recipe: the program's other settings that decide what is learnt; a run is continued with the same ones.
        work: what an example costs; None if the log is to have no such rates.
        probe: the stability signals of a batch by layer, each [L]; None for none.
        evaluators: by name; their metrics are logged as name/metric.
        counts: further numbers for the log, as they stand.
        best: the metric that --keep_best judges by, the larger the better.
    """

    description: Description
    target: TrainState
    locked: Params
    init: Callable[[], TrainState]
    step: Step
    examples: int
    batches: Callable[[Order], Generator[Mapping[str, Any], None, None]]
    names: Callable[[int], list[str]]
    learning_rate: Callable[[int], jax.Array]
    recipe: Mapping[str, Any]
    work: Work | None = None
    probe: Probe | None = None
    evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    counts: Callable[[], dict[str, float]] = dict
    best: str | None = None
