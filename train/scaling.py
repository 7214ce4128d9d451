"""Does quality rise with size: trains several sizes alike, judges each, and plots what came out, whatever it is.

    .venv/bin/python train/scaling.py --data build/eval/sets --output build/scaling

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Every model is pretrained
on the same images, tuned to the same captions and judged on the same sets, by the programs that anybody runs: this one
only starts them. What is finished is not done again, so that the same command continues after an interruption. In
--output: scaling.png, scaling.html, report.json, and a folder for each model.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from train.evaluation_sets.pretraining import FOLDER
from train.reports import comparison, comparison_page, figures, scaling_figure
from train.reports.comparison import Comparison
from train.reports.facts import contents_digest, images_digest
from train.reports.terminal_table import comparison_table
from train.suite.running import find_sets
from vit22b import program
from vit22b.config import vit
from vit22b.whole_file import write_whole

NOTE = (
    "Every model saw the same images in the same order with the same settings, and no setting was tuned for one of "
    "them. A recipe that is short, as this one, may do better by one size than by another: the figure says what this "
    "recipe gives on these data, and no more."
)
JOURNAL = "finished.json"
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
    """

    name: str
    command: tuple[str, ...]
    leaves: Path


def stages(settings: Settings, size: str, patch: int) -> Iterator[Stage]:
    """Pretraining, locked-image tuning and evaluation of a model, each by the program that users run."""
    folder = settings.output / f"{size}-{patch}"
    images = settings.data / FOLDER
    optimizer = ("--optimizer", "adamw", "--peak", "1e-3")
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
        ValueError: the data are not there.
        ChildProcessError: a program failed; it has said why.
    """
    data = _digests(settings)
    for size, patch in settings.members:
        folder = settings.output / f"{size}-{patch}"
        run_stages(folder, list(stages(settings, size, patch)), data)
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

    A stage that runs makes those behind it run again.

    Raises:
        ChildProcessError: one failed, or was told to stop.
    """
    journal = folder / JOURNAL
    finished = json.loads(journal.read_text()) if journal.is_file() else {}
    for number, stage in enumerate(todo):
        now = {"command": list(stage.command), "data": dict(data)}
        if finished.get(stage.name) == now and stage.leaves.exists():
            print(f"{folder.name}: {stage.name} is finished")
            continue
        finished = {before.name: finished[before.name] for before in todo[:number]}
        print(f"{folder.name}: {' '.join(stage.command)}", flush=True)
        _run(stage)
        finished[stage.name] = now
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(finished, indent=1)
        write_whole(journal, lambda file, text=text: file.write(text.encode()))


def _run(stage: Stage) -> None:
    script, *arguments = stage.command
    code = subprocess.run([sys.executable, str(Path(__file__).parent / script), *arguments], check=False).returncode
    if code == STOPPED:
        raise ChildProcessError(f"{script} was told to stop and has saved what it had; the same command continues it")
    if code or not stage.leaves.exists():
        raise ChildProcessError(f"{script} failed (exit code {code}), see above; the same command tries it again")


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
