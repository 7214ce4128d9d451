"""Converts a checkpoint and says what it took: memory above that of the libraries, seconds, the graph's size.

    .venv/bin/python -m benchmarks.conversion --checkpoint WORKDIR --output MODEL --weights bfloat16

Half of benchmarks/export.py, as a process of its own: the most memory that a process ever had is told once.
"""

import dataclasses
import json
import re
import time
from pathlib import Path

import jax

from export import to_savedmodel
from export.batching import Batching
from vit22b import program, quantised
from vit22b.description import read_description
from vit22b.quantised import WeightType


@dataclasses.dataclass(frozen=True)
class Settings:
    """Convert a checkpoint and measure it."""

    checkpoint: Path
    """A work directory."""
    output: Path
    """The model's folder; version 1 is written."""
    weights: WeightType = "float32"
    """As export/to_savedmodel.py takes it."""


def convert(settings: Settings) -> None:
    """Converts, and prints what it took as one line of JSON."""
    imported, begin = peak(), time.perf_counter()
    to_savedmodel.export(
        to_savedmodel.Settings(
            checkpoint=settings.checkpoint,
            output=settings.output,
            weights=settings.weights,
            version=1,
            batching=Batching(kind="none"),
            golden="none",
        )
    )
    seconds, most = time.perf_counter() - begin, peak() - imported
    size = quantised.weight_bytes(read_description(settings.checkpoint).config, settings.weights)
    found = {
        "seconds": round(seconds, 1),
        "weight_bytes": size,
        "peak_bytes": most,
        "peak_to_weights": round(most / size, 3),
        "saved_model_pb_bytes": (settings.output / "1" / "saved_model.pb").stat().st_size,
    }
    print(json.dumps(found))


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    program.run(convert, Settings, __doc__)
