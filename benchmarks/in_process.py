"""Runs a version's session without a server: what a server is measured against.

    .venv/bin/python -m benchmarks.in_process VERSION

For benchmarks/serving.py, in the place of the server on the walk SavedModel -> [server] -> client. The same code loads
the version as in the server, and the requests' arrays are fed to it as they are, with no wire before or behind. Orders
come as orders.py has them.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import functools
import logging
import re
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.orders import follow
from benchmarks.pace import closed_loop
from serving import predict_wire, warmup
from serving.servable import Options, Servable


def closed(servable: Servable, *, file: str, concurrency: int, seconds: float) -> dict[str, Any]:
    """As pace.closed_loop, with the inputs of the PredictRequest in a file; and rss_bytes, of this process."""
    asked = predict_wire.parse(Path(file).read_bytes())

    def call() -> bool:
        servable.answer(asked)
        return True

    return {**closed_loop([call] * concurrency, seconds), "rss_bytes": rss_bytes()}


def main(version: Path) -> None:
    """Loads and warms the version, and follows orders until there are none."""
    tf.get_logger().setLevel(logging.ERROR)
    servable = Servable.load("model", int(version.name), version, Options())
    warmup.warm_up(servable, version, check_golden=False, iterations=1)
    follow({"closed": functools.partial(closed, servable)})


def rss_bytes() -> int:
    """The memory of this process."""
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))
