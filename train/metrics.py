"""Where a run's numbers go: metrics.jsonl, TensorBoard, and a line or a bar in the terminal.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

FILE = "metrics.jsonl"


class MetricsWriter:
    """Writes scalars by step; use it as a context manager."""

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
        self._summary = tf.summary.create_file_writer(str(workdir / "tensorboard"))
        self._steps = steps
        columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[shown]}"))
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

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs scalars at a step, everywhere."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        with self._summary.as_default(step=step):
            for key, value in values.items():
                tf.summary.scalar(key, value)
        shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
        self._progress.update(self._task, completed=step, shown=f"loss {values['loss']:.4g}")
        if not self._progress.console.is_terminal:
            print(f"step {step}/{self._steps}  {shown}", flush=True)


def _drop_after(path: Path, step: int) -> None:
    if path.exists():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        path.write_text("".join(kept))
