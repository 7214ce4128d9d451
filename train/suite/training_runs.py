"""What the protocols that train a whole tower share: where and how a run of theirs goes, and how it is judged.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. They run the programs
that a user has, train/finetune.py and train/distill.py, on the sets that ask for it in set.json, `"details":
{"fine_tuning": true}`: each takes minutes.
"""

import tempfile
from pathlib import Path

import numpy as np

from train.compute import Compute
from train.evaluation_sets.reading import EvaluationSet, Part
from train.evaluators.accuracy import ranks, within
from train.evaluators.features import Doubles
from train.optimizer import Optimizer
from train.suite.context import Context
from train.tower import Tower

ASKED = "fine_tuning"  # in a set's details
COMPUTE = Compute(dtype="float32")


def asks(described: EvaluationSet) -> bool:
    """Whether a set asks for protocols that train."""
    return bool(described.details.get(ASKED))


def folder(context: Context) -> Path:
    """A new folder of the evaluation's own: what an earlier one left must not be continued."""
    context.scratch.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=context.scratch))


def optimizer(peak: float, steps: int) -> Optimizer:
    """AdamW with a cosine schedule, a tenth of it warm-up."""
    return Optimizer(
        "adamw", schedule="cosine", peak=peak, warmup=max(steps // 10, 1), body_decay=0.03, head_decay=0.03
    )


def quiet(steps: int) -> dict[str, int]:
    """The settings of a run that says and leaves little, and with which an evaluation ends as by Ctrl-C."""
    return {"log_every": steps, "signals_every": 0, "save_every": steps, "keep": 1, "stop_code": 130}


def right(tower: Tower, test: Part) -> Doubles:
    """1 where a tower's head says an image's class, among those of the set that it knows; [n]."""
    logits, classes = tower.logits(test.files), test.set.classes
    scores = np.full((len(test), len(classes)), np.finfo(np.float32).min)
    for column, name in enumerate(classes):
        if name in tower.labels:
            scores[:, column] = logits[:, tower.labels.index(name)]
    return within(ranks(scores, test.targets), 1)
