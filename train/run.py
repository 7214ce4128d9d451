"""How long a run is, and what it logs and leaves behind: the settings that every program which trains has.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Of
these, seed, batch and steps (by the schedule) decide what is learnt; all others may change when a run is continued.
"""

import dataclasses
import re
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """How long a run is, and what it leaves behind; the programs' settings add what they train to these."""

    workdir: Path
    """Where checkpoints and metrics go; a run that is there is continued."""
    steps: int
    """Length of the run, over which the schedule goes; a run is made longer with --allow_changes."""
    batch: int
    """Examples a step."""
    seed: int = 0
    """Of the initial weights, the order and the augmentation."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    signals_every: int | None = None
    """Steps between two looks at every layer's stability signals; as log_every if not given, 0 for none."""
    save_every: int = 1000
    """Steps between two checkpoints."""
    keep: int = 2
    """Latest checkpoints to keep."""
    keep_best: int = 0
    """Checkpoints to keep besides, the best by what the run is evaluated for."""
    eval_every: int | None = None
    """Steps between two evaluations; as save_every if not given."""
    max_skipped: int = 10
    """A step without a finite loss and gradient changes no weight; after so many in a row the run stops."""
    profile: str | None = None
    """FIRST:LAST, steps of which a profiler's trace is written to the folder profile in the work directory."""
    stop_code: int = 0
    """Exit code of a run that was told to stop, once it is saved; for schedulers that take 0 as the end of the run."""
    allow_changes: bool = False
    """Continue a run with other settings than it had: say which, and go on."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every", "save_every", "keep", "eval_every", "max_skipped"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}; expected 1 or more")
        for name in ("signals_every", "keep_best"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected 0 or more")
        if self.keep_best and self.save_every % self.evaluation_interval:
            raise ValueError(
                f"--keep_best needs an evaluation of every checkpoint, but --eval_every {self.evaluation_interval} is "
                f"not a divisor of --save_every {self.save_every}; leave it out, or take {self.save_every}"
            )
        if self.profile_window and self.profile_window[1] > self.steps:
            raise ValueError(
                f"--profile is {self.profile}, beyond the run's --steps {self.steps}; name steps that it has"
            )

    @property
    def evaluation_interval(self) -> int:
        """Steps between two evaluations."""
        return self.save_every if self.eval_every is None else self.eval_every

    @property
    def signals_interval(self) -> int:
        """Steps between two looks at the stability signals; 0 for none."""
        return self.log_every if self.signals_every is None else self.signals_every

    @property
    def profile_window(self) -> tuple[int, int] | None:
        """First and last step to trace, both included.

        Raises:
            ValueError: the flag is no such pair.
        """
        if self.profile is None:
            return None
        found = re.fullmatch(r"(\d+):(\d+)", self.profile)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"--profile is {self.profile!r}; expected FIRST:LAST, two steps in order, such as 10:15")
        return int(found[1]), int(found[2])
