"""Does quality rise with size: trains several sizes alike, judges each, and plots what came out, whatever it is.

    .venv/bin/python train/scaling.py --data build/eval/sets --output build/scaling

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Every model is pretrained
on the same images, tuned to the same captions and judged on the same sets, by the programs that anybody runs: this one
only starts them. What is finished is not done again, and what was begun by the same command on the same data goes on,
so that the same command continues after an interruption; other trainings in its folders are refused. In --output:
scaling.png, scaling.html, report.json, and a folder for each model.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from train.evaluation_sets.pretraining import FOLDER
from train.reports import comparison, comparison_page, figures, scaling_figure
from train.reports.comparison import Comparison
from train.reports.facts import contents_digest, images_digest
from train.reports.terminal_table import comparison_table
from train.suite.running import find_sets
from vit22b import program
from vit22b.config import vit
from vit22b.program import Interrupted
from vit22b.whole_file import write_whole

NOTE = (
    "Every model saw the same images in the same order with the same settings, and no setting was tuned for one of "
    "them. A recipe that is short, as this one, may do better by one size than by another: the figure says what this "
    "recipe gives on these data, and no more."
)
JOURNAL = "finished.json"  # by stage, its command, its data, and whether it has come to its end
STOPPED = 75  # what a training that was told to stop is asked to exit with: it has not come to its end


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Train and judge models of several sizes, and plot quality against size and compute."""

    output: Path = Path("build/scaling")
    """Folder for the models and the figure; what is finished in it is not done again."""
    data: Path = Path("build/eval/sets")
    """Folder that train/evaluation_data.py made: sets, and the images that are trained on."""
    sizes: tuple[str, ...] = ("mu", "Ti", "S")
    """Names of sizes; see train/pretrain.py."""
    patches: tuple[int, ...] = (16,)
    """Sides of patches in pixels; every size is trained with each."""
    resolution: int = 112
    """Side of the images in pixels."""
    steps: int = 600
    """Of pretraining."""
    batch: int = 32
    """Images a step of pretraining."""
    lit_steps: int = 120
    """Of locked-image tuning."""
    lit_batch: int = 128
    """Pairs a step of locked-image tuning."""
    sets: tuple[str, ...] = ("emoji", "digits", "people", "cues")
    """Sets to judge on."""

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ValueError(f"--sizes and --patches make {len(self.members)} model; give two or more to compare")
        for size, patch in self.members:
            vit(size, resolution=self.resolution, patch=patch)
        for name in ("steps", "batch", "lit_steps", "lit_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected 1 or more")

    @property
    def members(self) -> tuple[tuple[str, int], ...]:
        """Size and patch of every model, each once."""
        return tuple(dict.fromkeys((size, patch) for size in self.sizes for patch in self.patches))


@dataclasses.dataclass(frozen=True)
class Stage:
    """A program to run for a model.

    Attributes:
        name: of the stage.
        command: the program below train/, and its arguments.
        leaves: what is there once it has come to its end.
        workdir: of a training: it goes on with what lies there, and learns from the folder `pretraining` alone.
    """

    name: str
    command: tuple[str, ...]
    leaves: Path
    workdir: Path | None = None

    def note(self, data: Mapping[str, str], *, finished: bool) -> dict[str, Any]:
        """What the journal has of it.

        Args:
            data: digests of all data, by name.
            finished: whether it has come to its end.
        """
        used = data if self.workdir is None else {FOLDER: data[FOLDER]}
        return {"command": list(self.command), "data": dict(used), "finished": finished}

    def is_that_of(self, noted: Mapping[str, Any] | None, data: Mapping[str, str]) -> bool:
        """Whether a note is of this command on these data; notes of trainings once had other data besides."""
        now = self.note(data, finished=True)
        return (
            noted is not None
            and noted["command"] == now["command"]
            and all(noted["data"].get(name) == digest for name, digest in now["data"].items())
        )


def stages(settings: Settings, size: str, patch: int) -> Iterator[Stage]:
    """Pretraining, locked-image tuning and evaluation of a model, each by the program that users run."""
    folder = settings.output / f"{size}-{patch}"
    images = settings.data / FOLDER
    optimizer = ("--optimizer", "adamw", "--peak", "2e-3")
    steps, lit_steps = settings.steps, settings.lit_steps
    yield Stage(
        "pretrain",
        (
            *("pretrain.py", "--data", str(images), "--workdir", str(folder / "pretrain"), "--size", size),
            *("--resolution", str(settings.resolution), "--patch", str(patch), "--pooling", "mean"),
            *("--head_bias", "-4", "--steps", str(steps), "--batch", str(settings.batch), *optimizer),
            *("--warmup", str(steps // 8 or 1), "--cooldown", str(steps // 2 or 1), "--min_area", "0.6", "--no_flip"),
            *("--signals_every", "0", "--stop_code", str(STOPPED)),
        ),
        folder / "pretrain" / "checkpoints" / str(steps),
        folder / "pretrain",
    )
    yield Stage(
        "lit",
        (
            *("lit.py", "--checkpoint", str(folder / "pretrain"), "--data", str(images)),
            *("--workdir", str(folder / "lit"), "--steps", str(lit_steps), "--batch", str(settings.lit_batch)),
            *("--vocabulary", "600", *optimizer, "--warmup", str(lit_steps // 6 or 1)),
            *("--cooldown", str(lit_steps // 2 or 1), "--stop_code", str(STOPPED)),
        ),
        folder / "lit" / "checkpoints" / str(lit_steps),
        folder / "lit",
    )
    protocols = dict.fromkeys(measure.protocol for measure in scaling_figure.MEASURES)
    yield Stage(
        "evaluate",
        (
            *("evaluate.py", "--source", f"checkpoint:{folder / 'lit'}", "--data", str(settings.data)),
            *("--output", str(folder / "evaluation"), "--protocols", *protocols, "--sets", *settings.sets),
        ),
        report_of(folder),
    )


def report_of(folder: Path) -> Path:
    """Where a model's evaluation leaves its report."""
    return folder / "evaluation" / "report.json"


def scale(settings: Settings) -> None:
    """Trains and judges what is not finished, and writes the figure.

    Raises:
        ValueError: the data are not there, or other trainings are in the models' folders.
        ChildProcessError: a program failed; it has said why.
        Interrupted: on SIGTERM or SIGINT, once the program that runs has saved what it had.
    """
    data = _digests(settings)
    todo = {
        settings.output / f"{size}-{patch}": list(stages(settings, size, patch)) for size, patch in settings.members
    }
    for folder, each in todo.items():
        refuse_others(folder, each, data)
    for folder, each in todo.items():
        run_stages(folder, each, data)
    found = comparison.compare([report_of(settings.output / f"{size}-{patch}") for size, patch in settings.members])
    write(found, settings.output)
    program.table_console().print(comparison_table(found))
    print(f"{settings.output / 'scaling.png'}, {settings.output / 'scaling.html'}: {len(found.models)} models")


def write(found: Comparison, output: Path) -> None:
    """Writes report.json, scaling.html and scaling.png."""
    comparison.write(found, output / "report.json")
    comparison_page.write(found, output / "scaling.html", "Quality against size and compute", NOTE)
    with figures.drawing():
        figure = scaling_figure.draw(found)
        write_whole(output / "scaling.png", lambda file: figure.savefig(file, format="png", dpi=150))


def run_stages(folder: Path, todo: Sequence[Stage], data: Mapping[str, str]) -> None:
    """Runs the stages of a model that are not finished: by the very same command, on the very same data.

    A stage that runs makes those behind it run again; a training among them looks itself whether it began with what is
    there now.

    Raises:
        ValueError: see refuse_others.
        ChildProcessError: one failed.
        Interrupted: one was told to stop, or this program.
    """
    refuse_others(folder, todo, data)
    noted = _noted(folder)
    for number, stage in enumerate(todo):
        before = noted.get(stage.name)
        if stage.is_that_of(before, data) and _is_finished(before) and stage.leaves.exists():
            print(f"{folder.name}: {stage.name} is finished")
            continue
        behind = {each.name: noted[each.name] | {"finished": False} for each in todo[number:] if each.name in noted}
        noted |= behind | {stage.name: stage.note(data, finished=False)}
        _write_notes(folder, noted)  # before there is anything that it could be asked of
        print(f"{folder.name}: {' '.join(stage.command)}", flush=True)
        told = _run(stage)
        noted[stage.name] = stage.note(data, finished=True)
        _write_notes(folder, noted)
        if told:
            raise Interrupted(f"stopped, {stage.name} is finished; the same command goes on behind it", 130)


def refuse_others(folder: Path, todo: Sequence[Stage], data: Mapping[str, str]) -> None:
    """Raises ValueError where a training's folder holds one that was begun by another command or on other data.

    It would be continued, or taken as finished: a training knows its data by little more than their number.
    """
    noted = _noted(folder)
    others = [
        stage.workdir
        for stage in todo
        if stage.workdir is not None and stage.workdir.exists() and not stage.is_that_of(noted.get(stage.name), data)
    ]
    if others:
        names = " ".join(map(str, others))
        raise ValueError(
            f"{names}: {folder / JOURNAL} does not say that this was begun with these settings on these data, and it "
            "would be continued; remove it, or give another --output"
        )


def _noted(folder: Path) -> dict[str, Any]:
    journal = folder / JOURNAL
    found: dict[str, Any] = json.loads(journal.read_text()) if journal.is_file() else {}
    return found


def _is_finished(noted: Mapping[str, Any]) -> bool:
    """Once, only what was finished was noted."""
    return bool(noted.get("finished", True))


def _write_notes(folder: Path, noted: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(noted, indent=1)
    write_whole(folder / JOURNAL, lambda file: file.write(text.encode()))


def _run(stage: Stage) -> bool:
    """Runs a stage to its end; whether this program was told to stop meanwhile."""
    script, *arguments = stage.command
    code, told = _waited([sys.executable, str(Path(__file__).parent / script), *arguments])
    if code == STOPPED:
        raise Interrupted(f"{script} was told to stop and has saved what it had; the same command continues it", 130)
    if code and told:
        raise Interrupted(f"{script} was told to stop (exit code {code}); the same command tries it again", 130)
    if code or not stage.leaves.exists():
        raise ChildProcessError(f"{script} failed (exit code {code}), see above; the same command tries it again")
    return told


def _waited(command: Sequence[str]) -> tuple[int, bool]:
    """Runs a program until it ends by itself; its exit code, and whether this one was told to stop meanwhile.

    A training saves when it is told to stop, and that is waited for. Ctrl-C tells both, since the terminal sends it to
    both; a second one ends the training at once. SIGTERM came to this program alone, and is handed on.
    """
    told: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def note(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        if number == signal.SIGTERM and process is not None:
            process.terminate()

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        process = subprocess.Popen(command)
        if told:  # before it could hear of it
            process.terminate()
        return process.wait(), bool(told)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _digests(settings: Settings) -> dict[str, str]:
    """What the models are trained and judged on, by name; raises ValueError where it is not there."""
    if not (settings.data / FOLDER).is_dir():
        raise ValueError(
            f"{settings.data} has no folder {FOLDER} to train on; make it by train/evaluation_data.py --output "
            f"{settings.data}"
        )
    found = {each.name: contents_digest(each) for each in find_sets(settings.data, settings.sets)}
    return {**found, FOLDER: images_digest(settings.data / FOLDER)}


if __name__ == "__main__":
    program.run(scale, Settings, __doc__)
