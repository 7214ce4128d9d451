"""The steps that were skipped, because their loss or gradient was not finite.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Such a
step changes no weight (see train.state.make_step); here they are counted, told, and after too many in a row the run
is stopped. The counts are saved with every checkpoint, so that a continued run stops where an uninterrupted one would.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from train.hosts import on_first
from vit22b.checkpoint import Checkpoints

SHOWN = 8
JUDGED = ("loss", "grad_norm")


@dataclasses.dataclass
class Skips:
    """Counts of skipped steps.

    Attributes:
        total: in the whole run.
        in_a_row: up to now.
    """

    total: int = 0
    in_a_row: int = 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Skips":
        """The counts as a checkpoint has them."""
        return cls(values.get("total", 0), values.get("in_a_row", 0))

    def count(
        self,
        step: int,
        metrics: Mapping[str, float],
        most: int,
        names: Callable[[int], list[str]],
        checkpoints: Checkpoints,
    ) -> None:
        """Counts a step, if it was skipped, and says so.

        Args:
            step: the number of it.
            metrics: its own; those of JUDGED say whether it was skipped.
            most: how many there may be in a row.
            names: the names of the records that a step took.
            checkpoints: of the run, for the message.

        Raises:
            FloatingPointError: these are too many in a row.
        """
        bad = [name for name in JUDGED if not math.isfinite(metrics[name])]
        if not bad:
            self.in_a_row = 0
            return
        self.total += 1
        self.in_a_row += 1
        what = f"{bad[0]} is {metrics[bad[0]]} at step {step}"
        if self.in_a_row < most:
            if on_first():
                print(f"{what}: skipped, the weights are as before ({self.in_a_row} in a row)", file=sys.stderr)
            return
        checkpoints.wait()
        last = checkpoints.latest()
        where = (
            "there is no checkpoint"
            if last is None
            else f"the last good checkpoint is {checkpoints.folder / str(last)}"
        )
        raise FloatingPointError(
            f"{what}, the last of {self.in_a_row} such steps in a row; its batch is {_shown(names(step))}; {where}. "
            "Look at those records; or say --allow_changes with a lower --peak or a longer --warmup, or a larger "
            f"--max_skipped than {most}"
        )


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
