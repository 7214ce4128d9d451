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
from collections.abc import Iterator
from pathlib import Path

from train.evaluation_sets.pretraining import FOLDER
from train.reports import comparison, comparison_page, figures, scaling_figure
from train.reports.comparison import Comparison
from train.reports.facts import contents_digest, images_digest
from train.reports.terminal_table import comparison_table
from train.stage import STOPPED, Stage, refuse_others, run_stages
from train.suite.running import find_sets
from vit22b import program
from vit22b.config import vit
from vit22b.whole_file import write_whole

NOTE = (
    "Every model saw the same images in the same order with the same settings, and no setting was tuned for one of "
    "them. A recipe that is short, as this one, may do better by one size than by another: the figure says what this "
    "recipe gives on these data, and no more."
)


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
    steps: int = 400
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


def stages(settings: Settings, size: str, patch: int) -> Iterator[Stage]:
    """Pretraining, locked-image tuning and evaluation of a model, each by the program that users run."""
    folder = settings.output / f"{size}-{patch}"
    images = settings.data / FOLDER
    # The peak that ViTs are commonly trained with by AdamW; it was set before Ti and S had been trained here.
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
        ValueError: the data are not there, or other trainings are in the models' folders; see refuse_others.
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
