"""How fast the input is, by source: the same images from a folder, from ArrayRecord files and from tars.

    .venv/bin/python benchmarks/input_pipeline.py --output build/bench/input.json

Two sets of real images: MNIST's digits of 28 x 28, which show what a record costs besides its pixels, and JPEGs of
500 x 375 cut out of the two photographs of scikit-learn (BSD licence), which show decoding. The sources take turns
within one run, so that a ratio does not depend on what else the machine does. Fields: docs/reports.md.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from train import mnist
from train.input import DECODING, Augment, Order, training_batches
from train.mixture import Mixture
from train.sources.opening import open_source
from train.sources.records import write_records
from train.sources.tars import write_tar
from vit22b import program
from vit22b.preprocess import Preprocess

KINDS = ("folder", "arrayrecord", "tar")
PHOTOGRAPH = (500, 375)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time the input pipeline on three kinds of source."""

    output: Path = Path("build/bench/input.json")
    """Report to write."""
    images: int = 1000
    """Images of each set: a multiple of 50, up to 5000."""
    batch: int = 64
    """Images of a batch."""
    rounds: int = 5
    """Times that each source is measured; the median counts."""


def write_sources(folder: Path) -> dict[str, str]:
    """Writes a folder's images as ArrayRecord and as tar beside it; the names to open the three by, by kind."""
    source = open_source(str(folder))
    stored = {kind: folder.with_name(f"{folder.name}-{kind}") for kind in KINDS[1:]}
    for path in stored.values():
        path.mkdir()
        (path / "labels.txt").write_text("".join(f"{label}\n" for label in source.labels))
    examples = [source[i] for i in range(len(source))]
    write_records(stored["arrayrecord"] / "a.arrayrecord", examples)
    write_tar(stored["tar"] / "a.tar", examples)
    return {"folder": str(folder)} | {kind: f"{kind}:{path}/a.*" for kind, path in stored.items()}


def write_photographs(folder: Path, images: int) -> Path:
    """Writes cut-outs of two photographs as JPEG, one class each."""
    random = np.random.default_rng(0)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(images):
        which = number % len(photographs)
        photograph = photographs[which]
        (folder / f"{which}").mkdir(parents=True, exist_ok=True)
        left, top = (int(random.integers(size // 4)) for size in photograph.size)
        box = (left, top, left + 3 * photograph.width // 4, top + 3 * photograph.height // 4)
        photograph.resize(PHOTOGRAPH, box=box).save(folder / f"{which}" / f"{number:05}.jpg", quality=90)
    return folder


def images_per_second(name: str, resolution: int, settings: Settings) -> float:
    """The rate of one pass over a source."""
    source = open_source(name)
    steps = len(source) // settings.batch
    if steps < 2 * DECODING + 2:
        raise ValueError(f"{len(source)} images make {steps} batches of {settings.batch}; take more --images")
    order = Order(len(source), settings.batch, seed=0, start=0, steps=steps)
    batches = training_batches(Mixture((source,)), Preprocess(resolution), Augment(), order)
    return settings.batch * steady_rate([time.perf_counter() for _ in batches])


def steady_rate(arrivals: Sequence[float]) -> float:
    """Batches a second, of the times at which each came.

    The clock starts when DECODING + 1 have come, and stops with as many under way as there were then.
    """
    first, last = DECODING, len(arrivals) - 1 - DECODING
    return (last - first) / (arrivals[last] - arrivals[first])


def measure(names: dict[str, str], resolution: int, settings: Settings) -> dict[str, float]:
    """Medians by kind of source, and their ratios to the folder's in the same round."""
    rates = [
        {kind: images_per_second(name, resolution, settings) for kind, name in names.items()}
        for _ in range(settings.rounds + 1)  # the first round, which traces and fills caches, does not count
    ][1:]
    found = {f"{kind}_images_per_second": round(statistics.median(rate[kind] for rate in rates), 1) for kind in KINDS}
    return found | {
        f"{kind}_to_folder": round(statistics.median(rate[kind] / rate["folder"] for rate in rates), 3)
        for kind in KINDS[1:]
    }


def main(settings: Settings) -> None:
    """Measures, writes the report and prints it."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        mnist.write(mnist.Settings(root / "digits", limit=settings.images))
        sets = (
            ("digits", 28, root / "digits" / "train"),
            ("photographs", 224, write_photographs(root / "photographs", settings.images)),
        )
        rows = [
            {"images": name, "resolution": resolution, **measure(write_sources(folder), resolution, settings)}
            for name, resolution, folder in sets
        ]
    report = {"cores": len(os.sched_getaffinity(0)), "batch": settings.batch, "rounds": settings.rounds, "sets": rows}
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    settings.output.write_text(json.dumps(report, indent=2) + "\n")
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    print(settings.output)


if __name__ == "__main__":
    program.run(main, Settings, __doc__)
