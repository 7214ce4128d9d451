"""Versions of a served model with random weights: what a server is soaked and timed with.

Makes the middle of the walk, checkpoint -> SavedModel, without the training before it: a checkpoint of random weights
for each version, exported by export/to_savedmodel.py as a process. With the same seed they are the same versions.
"""

import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from benchmarks.server_process import ROOT
from vit22b import model
from vit22b.checkpoint import Checkpoints
from vit22b.config import ModelConfig, text_tower, vit
from vit22b.description import Description
from vit22b.preprocess import Preprocess
from vit22b.tokenizer import train_tokenizer

CLASSES = ("zero", "one", "two", "three", "four", "five")


def image_tower(size: str) -> Description:
    """A model of a named size, without a head."""
    config = ModelConfig(vit(size))
    return Description(config, Preprocess(config.image.resolution))


def zero_shot() -> Description:
    """The smallest model with all that a model can have: a head, a text tower."""
    image = vit("mu")
    tokenizer = train_tokenizer(f"the number {name}" for name in CLASSES)
    text = text_tower(image, vocabulary=tokenizer.vocabulary)
    config = ModelConfig(image, classes=len(CLASSES), text=text)
    return Description(config, Preprocess(image.resolution), labels=CLASSES, tokenizer=tokenizer.to_json())


def export(description: Description, output: Path, batch_sizes: Iterable[int], versions: int = 1) -> None:
    """Writes versions 1, 2 and so on of a model, each with weights of its own; classes are baked in where they can be.

    Args:
        description: of the model.
        output: the model's folder; what is there already stays as it is.
        batch_sizes: as export/to_savedmodel.py takes them.
        versions: how many.

    Raises:
        subprocess.CalledProcessError: the export failed.
    """
    for version in range(1, versions + 1):
        if (output / str(version)).exists():
            continue
        with tempfile.TemporaryDirectory() as workdir:
            write_checkpoint(Path(workdir), description, seed=version)
            flags = [f"--checkpoint={workdir}", f"--output={output}", f"--version={version}", "--batch_sizes"]
            flags += map(str, batch_sizes)
            if description.config.text is not None:
                flags += ["--classes", *CLASSES, "--templates", "digits", "--top", "3"]
            program = ROOT / "export" / "to_savedmodel.py"
            subprocess.run([sys.executable, str(program), *flags], check=True, stdout=subprocess.DEVNULL)


def write_checkpoint(workdir: Path, description: Description, seed: int) -> None:
    """Writes a checkpoint of random weights, as large as trained ones are."""
    random = np.random.default_rng(seed)

    def weights(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> npt.NDArray[np.float32]:
        values = random.standard_normal(leaf.shape, np.float32)
        if path[-1].key == "scale":
            return 1 + np.float32(0.1) * values
        return values / np.float32(math.sqrt(max(math.prod(leaf.shape[:-1]), 16)))

    params = jax.tree_util.tree_map_with_path(weights, model.abstract(description.config)[1])
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(1, {"params": params}, {"step": 1}, description)
