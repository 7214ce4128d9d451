"""What an export is asked for: the flags of export/to_savedmodel.py, and what of them does not go together.

At the beginning of the hop checkpoint -> SavedModel. What cannot be is refused here, before a tower is traced or a
weight read.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from export import numerics
from export.batching import Batching
from export.class_bank import Classes
from export.serving_module import PLATFORMS
from export.stablehlo import Format
from export.tpu_target import Target
from vit22b.checkpoint import Weights
from vit22b.folder import read_folder
from vit22b.quantised import WeightType
from vit22b.signature import MANIFEST_FILE


@dataclasses.dataclass(frozen=True)
class Settings:
    """Export a checkpoint as a version of a served model."""

    checkpoint: Path
    """A work directory of train/pretrain.py or train/lit.py (its latest step), or one step in it."""
    output: Path
    """The model's folder in the repository, REPOSITORY/MODEL; the version is written below it."""
    weights_from: Weights = "auto"
    """ema: the moving average of the weights; params: as the last step left them; auto: the average where the
    checkpoint has one."""
    weights: WeightType = "float32"
    """Type that the weights are stored in. bfloat16: half the memory of float32, computed in bfloat16. int8: a quarter,
    each kernel with a scale for every output channel, computed in bfloat16. The error goes into the manifest."""
    limit: numerics.Limit = dataclasses.field(default_factory=numerics.Limit)
    version: int | None = None
    """Number of the version; the next free one if not given. A version that exists is never overwritten."""
    platforms: tuple[str, ...] = PLATFORMS
    """What the program is lowered for."""
    feature_layers: tuple[int, ...] = ()
    """Blocks, counted from 0, whose tokens the signature features answers too, as tokens_3 and so on."""
    classes: Classes = dataclasses.field(default_factory=Classes)
    batching: Batching = dataclasses.field(default_factory=Batching)
    target: Target = dataclasses.field(default_factory=Target)
    format: Format = dataclasses.field(default_factory=Format)
    report: Path | None = None
    """report.json of an evaluation of this checkpoint by train/evaluate.py; its figures go into the model card."""
    golden: Literal["recorded", "none"] = "recorded"
    """recorded: the version is run here, and its answers are what verify.py and servers compare theirs with. none: it
    is written without having run, for a machine that cannot; servers have nothing to warm it with."""

    @property
    def unmeasured(self) -> str:
        """Why the weights are not compared with float32, or "" where they are."""
        if self.weights == "float32":
            return "they are float32"
        if self.format.format != "savedmodel":
            return "a StableHLO export does not run here"
        return "" if self.golden == "recorded" else "--golden none writes the version without running it"


def check_platforms(settings: Settings) -> None:
    """Raises ValueError for platforms that there are not, or without the one that this export has to run on."""
    unknown = set(settings.platforms) - set(PLATFORMS)
    if unknown or not settings.platforms:
        raise ValueError(f"--platforms are {settings.platforms}; expected some of {', '.join(PLATFORMS)}")
    if settings.target.target == "tpu" and "tpu" not in settings.platforms:
        raise ValueError(f"--platforms are {settings.platforms}, and --target is tpu; add tpu")
    if "cpu" not in settings.platforms and settings.golden == "recorded" and settings.format.format == "savedmodel":
        raise ValueError(
            f"--platforms are {settings.platforms}, and golden answers are recorded on a CPU; add cpu, or leave them "
            "out by --golden none"
        )
    if "cpu" not in settings.platforms and (settings.classes.classes or settings.classes.classes_file):
        raise ValueError(f"--platforms are {settings.platforms}, and --classes are embedded on a CPU; add cpu")


def check_format(settings: Settings) -> None:
    """Raises ValueError for settings of a SavedModel in an export that is none."""
    if settings.format.format == "savedmodel":
        return
    if settings.target.target != "any":
        raise ValueError("--target tpu is of a SavedModel; a StableHLO export has --platforms")
    if settings.classes.classes or settings.classes.classes_file:
        raise ValueError("--classes are a signature of a SavedModel; leave them out with --format stablehlo")
    if settings.batching != Batching():
        raise ValueError(
            f"--batching, --batch_sizes and what goes with them ({settings.batching}) are of a SavedModel; a StableHLO "
            "program takes any batch: leave them out"
        )


def check_neighbours(settings: Settings) -> None:
    """Raises ValueError where a server would find a version that it cannot run, the highest perhaps, among others."""
    if not settings.output.is_dir():
        return
    for version in settings.output.iterdir():
        if version.name.isdecimal() and version.is_dir():
            found = "savedmodel" if (version / "saved_model.pb").is_file() else "stablehlo"
            if found != settings.format.format and (version / MANIFEST_FILE).is_file():
                raise ValueError(
                    f"--output {settings.output} has version {version.name} of the format {found}, and this one is "
                    f"{settings.format.format}; a server runs one of them: give these another model's folder"
                )


def check_numerics(settings: Settings) -> None:
    """Raises ValueError for images that cannot be measured on, or a limit where nothing is measured."""
    given = {"--max_error": settings.limit.max_error, "--numerics_images": settings.limit.numerics_images}
    names = [name for name, value in given.items() if value is not None]
    if names and settings.unmeasured:
        raise ValueError(
            f"{' and '.join(names)}: these weights are not measured, since {settings.unmeasured}; leave "
            f"{'it' if len(names) == 1 else 'them'} out"
        )
    if settings.limit.numerics_images is not None:
        read_folder(settings.limit.numerics_images)


def check_layers(layers: tuple[int, ...], depth: int) -> None:
    """Raises ValueError for blocks that the tower has not, or one that is named twice."""
    if wrong := [layer for layer in layers if not 0 <= layer < depth]:
        raise ValueError(f"--feature_layers are {layers}; this tower has layers 0 to {depth - 1}, and no {wrong}")
    if len(set(layers)) < len(layers):
        raise ValueError(f"--feature_layers are {layers}; expected each layer once")
