"""What an export costs, and what a SavedModel costs against the JAX function that it was made of.

    .venv/bin/python benchmarks/export.py --sizes B G

writes build/bench/export.json (docs/reports.md has its fields). For each size a checkpoint of random weights is
converted to each type in a process of its own, and the float32 version, in a session of TensorFlow as a server runs it,
takes turns with jax.jit on the same images. G needs 22 GiB of memory, so run it alone, and 15 GB of disk.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorstore
from rich.table import Table

from vit22b import model, program, signature
from vit22b.checkpoint import Checkpoints, load
from vit22b.config import ModelConfig, vit
from vit22b.description import Description
from vit22b.embedder import embedder
from vit22b.preprocess import Preprocess
from vit22b.quantised import WeightType
from vit22b.tree import is_stacked, leaves

_LARGE = 1024  # width from which an image takes long enough for one at a time


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure exports on this machine."""

    output: Path = Path("build/bench/export.json")
    """Report to write."""
    sizes: tuple[str, ...] = ("B", "G")
    """Names of sizes, as train/pretrain.py takes them."""
    weights: tuple[WeightType, ...] = get_args(WeightType)
    """Types of weights to convert to; images a second are measured where float32 is among them."""
    rounds: int = 5
    """Rounds; the median of their ratios counts."""
    scratch: Path | None = None
    """Folder for checkpoints and versions, for a while; the system's one for such files if not given."""

    def __post_init__(self) -> None:
        for size in self.sizes:
            vit(size)
        if self.rounds < 1:
            raise ValueError(f"--rounds is {self.rounds}; expected 1 or more")


def write_checkpoint(config: ModelConfig, workdir: Path) -> None:
    """Writes a checkpoint of random weights, with no more memory than one layer takes.

    It is one of a small model with the same names, its description the large one's and its arrays written over.
    """
    small = model.abstract(ModelConfig(vit("mu", pooling=config.image.pooling)))[1]
    with Checkpoints(workdir) as checkpoints:
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), small)
        description = Description(config, Preprocess(config.image.resolution))
        checkpoints.save(1, {"params": zeros}, {"step": 1}, description)
    random = np.random.default_rng(0)
    for name, leaf in leaves(model.abstract(config)[1]).items():
        chunk = (1, *leaf.shape[1:]) if is_stacked(name) else leaf.shape
        path = {"base": f"file://{workdir}/checkpoints/1/params/", "path": f"{name.replace('/', '.')}/"}
        array = tensorstore.open(
            {
                "driver": "zarr",
                "kvstore": {"driver": "ocdbt", **path},
                "metadata": {"shape": leaf.shape, "chunks": chunk, "dtype": "<f4", "compressor": None},
            },
            create=True,
            delete_existing=True,
        ).result()
        for start in range(0, leaf.shape[0], chunk[0]):
            array[start : start + chunk[0]].write(_random(name, chunk, random)).result()


def _random(name: str, shape: tuple[int, ...], random: np.random.Generator) -> npt.NDArray[np.float32]:
    if name.endswith("/scale"):
        return np.ones(shape, np.float32)
    return random.standard_normal(shape, np.float32) / np.float32(math.sqrt(max(math.prod(shape[:-1]), 16)))


def convert(checkpoint: Path, output: Path, weights: WeightType) -> dict[str, Any]:
    """What a conversion to version 1 took, by benchmarks/conversion.py in a process of its own."""
    flags = [f"--checkpoint={checkpoint}", f"--output={output}", f"--weights={weights}"]
    # As a module: a program's own folder comes first on sys.path, and here that has an export.py, this one.
    command = [sys.executable, "-m", "benchmarks.conversion", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1])
    found = {"weights": weights, **json.loads(done.stdout.splitlines()[-1])}
    print(f"{weights}: {found['seconds']} s, memory {found['peak_to_weights']} of the weights", flush=True)
    return found


def contestants(checkpoint: Path, version: Path) -> dict[str, Callable[[npt.NDArray[np.uint8]], Any]]:
    """Two functions of pixels: the SavedModel in a session, and the checkpoint's image tower by jax.jit."""
    graph = tf.Graph()
    with graph.as_default():
        session = tf.compat.v1.Session(graph=graph)
        entry = tf.compat.v1.saved_model.load(session, ["serve"], str(version)).signature_def[signature.EMBED_PIXELS]
    feed = [entry.inputs[signature.PIXELS].name]
    saved = session.make_callable(entry.outputs[signature.EMBEDDING].name, feed_list=feed)
    embed = embedder(load(checkpoint))
    return {"session": saved, "jit": lambda pixels: np.asarray(embed(pixels))}


def compare(
    runs: Mapping[str, Callable[[npt.NDArray[np.uint8]], Any]], config: ModelConfig, batch: int, rounds: int
) -> dict[str, Any]:
    """Median images a second of each, and the median of their ratios; they take turns."""
    side = config.image.resolution
    pixels = np.random.default_rng(0).integers(256, size=(batch, side, side, 3), dtype=np.uint8)
    first, second = (run(pixels) for run in runs.values())  # compiles
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-5)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in sorted(runs, reverse=bool(number % 2)):
            begin = time.perf_counter()
            runs[name](pixels)
            rates[name].append(batch / (time.perf_counter() - begin))
    ratios = [session / jit for session, jit in zip(rates["session"], rates["jit"], strict=True)]
    found = {
        "batch": batch,
        **{f"{name}_images_per_second": round(statistics.median(each), 3) for name, each in rates.items()},
        "session_to_jit": round(statistics.median(ratios), 4),
        "session_to_jit_by_round": [round(ratio, 4) for ratio in ratios],
    }
    print(found, flush=True)
    return found


def measure(size: str, settings: Settings, scratch: Path) -> dict[str, Any]:
    """The fields of one size."""
    config = ModelConfig(vit(size))
    checkpoint, models = scratch / "checkpoint", scratch / "models"
    write_checkpoint(config, checkpoint)
    conversions, serving = [], []
    for weights in sorted(settings.weights, key=lambda weights: weights == "float32"):
        conversions.append(convert(checkpoint, models, weights))
        if weights == "float32":  # the last, since what runs stays in memory
            runs = contestants(checkpoint, models / "1")
            batches = (1,) if config.image.width > _LARGE else (8, 32)
            serving = [compare(runs, config, batch, settings.rounds) for batch in batches]
        shutil.rmtree(models)
    return {"size": size, "conversions": conversions, "serving": serving}


def main(settings: Settings) -> None:
    """Measures, writes the report and prints it."""
    sizes = []
    for size in settings.sizes:
        with tempfile.TemporaryDirectory(dir=settings.scratch) as scratch:
            sizes.append(measure(size, settings, Path(scratch)))
    report = {
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "tensorflow": tf.__version__,
        "rounds": settings.rounds,
        "sizes": sizes,
    }
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    settings.output.write_text(json.dumps(report, indent=2) + "\n")
    for kind in ("conversions", "serving"):
        rows = [{"size": found["size"], **each} for found in sizes for each in found[kind]]
        if rows:
            table = Table(*rows[0])
            for row in rows:
                table.add_row(*map(str, row.values()))
            program.table_console().print(table)
    print(settings.output)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    program.run(main, Settings, __doc__)
