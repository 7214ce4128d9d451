"""Where a run's numbers go: metrics.jsonl, TensorBoard, and a line or a bar in the terminal.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
        # TensorBoard drops by itself what was logged beyond the step at which a run begins again.
        self._summary = tf.summary.create_file_writer(str(workdir / "tensorboard"))
        self._steps = steps
        columns = (TextColumn(name), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[shown]}"))
        self._progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(name, total=steps, completed=start, shown="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._summary.close()
        self._file.close()

    def advance(self, step: int) -> None:
        """Moves the bar."""
        self._progress.update(self._task, completed=step)

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Logs numbers at a step, everywhere: in TensorBoard the layers of a list by themselves, as `max_logit/03`."""
        finite = {name: _finite(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._file.flush()
        with self._summary.as_default(step=step):
            for name, value in values.items():
                for tag, number in _by_layer(name, value):
                    tf.summary.scalar(tag, number)
        shown = "  ".join(form.format(values[name]) for name, form in SHOWN.items() if name in values)
        self._progress.update(self._task, completed=step, shown=shown)
        if not self._progress.console.is_terminal:
            line = "  ".join(_short(name, value) for name, value in values.items())
            print(f"step {step}/{self._steps}  {line}", flush=True)


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
    layer = worst(range(len(value)), key=value.__getitem__)
    return f"{name} {value[layer]:.4g} (layer {layer})"


def _drop_after(path: Path, step: int) -> None:
    if path.exists():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        path.write_text("".join(kept))
