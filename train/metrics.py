"""Where a run's numbers go: metrics.jsonl, TensorBoard, and a line or a bar in the terminal.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

FILE = "metrics.jsonl"
Value = float | list[float]
# What the bar shows, in this order, of what there is.
SHOWN = {
    "loss": "loss {:.4g}",
    "eval/top1": "top-1 {:.1%}",
    "images_per_second": "{:,.4g} images/s",
    "tokens_per_second_per_chip": "{:,.4g} tokens/s a chip",
    "mfu": "MFU {:.1%}",
    "input_wait": "{:.1%} waiting for data",
}


class MetricsWriter:
    """Writes numbers by step; use it as a context manager."""

    def __init__(self, workdir: Path, name: str, start: int, steps: int) -> None:
        """Opens the files of a run.

        Args:
            workdir: holds metrics.jsonl and the folder tensorboard/.
            name: of the run, for the terminal.
            start: steps that are behind already; what an interrupted run logged beyond them is dropped.
            steps: the run's length.
        """
        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / FILE
        _drop_after(self._path, start)
        self._file = self._path.open("a")
        self._events = EventFileWriter(str(workdir / "tensorboard"))
        # TensorBoard drops what was logged at this step and later, before a run was interrupted.
        self._add(start + 1, session_log=SessionLog(status=SessionLog.START))
        self._steps = steps
        columns = (TextColumn(name), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[shown]}"))
        self._progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(name, total=steps, completed=start, shown="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._events.close()
        self._file.close()

    def advance(self, step: int) -> None:
        """Moves the bar."""
        self._progress.update(self._task, completed=step)

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Logs numbers at a step, everywhere: in TensorBoard the layers of a list by themselves, as `max_logit/03`."""
        finite = {name: _finite(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in values.items():
            for tag, number in _by_layer(name, value):
                self._add(step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=number)]))
        self._events.flush()
        shown = "  ".join(form.format(values[name]) for name, form in SHOWN.items() if name in values)
        self._progress.update(self._task, completed=step, shown=shown)
        if not self._progress.console.is_terminal:
            line = "  ".join(_short(name, value) for name, value in values.items())
            print(f"step {step}/{self._steps}  {line}", flush=True)

    def _add(self, step: int, **what: Any) -> None:
        # tf.summary has no event that a run begins again.
        self._events.add_event(Event(wall_time=time.time(), step=step, **what))


class Unwritten:
    """The MetricsWriter of every process but the first, which writes for all."""

    def __init__(self, workdir: Path, name: str, start: int, steps: int) -> None:
        """Opens nothing; see MetricsWriter."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, step: int) -> None:
        """Moves no bar."""

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Logs nowhere."""


def _finite(value: Value) -> Value | list[float | None] | None:
    """JSON has no numbers but finite ones; what is none is null there."""
    if isinstance(value, list):
        return [number if math.isfinite(number) else None for number in value]
    return value if math.isfinite(value) else None


def _by_layer(name: str, value: Value) -> Iterator[tuple[str, float]]:
    if isinstance(value, list):
        yield from ((f"{name}/{layer:02d}", number) for layer, number in enumerate(value))
    else:
        yield name, value


def _short(name: str, value: Value) -> str:
    """A number as a line of the terminal shows it; of the layers the most alarming."""
    if not isinstance(value, list):
        return f"{name} {value:.4g}"
    worst = min if name == "entropy" else max  # attention collapses downwards, all else explodes
    # A NaN compares with nothing, and is worse than any number.
    layer = worst(range(len(value)), key=lambda i: value[i] if not math.isnan(value[i]) else worst(-math.inf, math.inf))
    return f"{name} {value[layer]:.4g} (layer {layer})"


def _drop_after(path: Path, step: int) -> None:
    """Cuts off the lines beyond a step, and half a line; in place, so that a kill in between loses nothing."""
    if not path.exists():
        return
    kept = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
            kept += len(line)
    os.truncate(path, kept)
