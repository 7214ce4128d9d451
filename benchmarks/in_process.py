"""Runs a version's session without a server, and behind the least one: what a server is measured against.

    .venv/bin/python -m benchmarks.in_process VERSION

For benchmarks/serving.py, in the place of the server on the walk SavedModel -> [server] -> client. The same code loads
the version as in the server, and the requests' arrays are fed to it as they are, with no wire before or behind. Behind
a port of grpcio's own server, which has a handler with nothing around it, it shows what the transport takes before
there is anything of ours. TensorFlow allocates as it does by default; what the server's setting costs is the server's.
Orders come as orders.py has them.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import functools
import logging
import re
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf

from benchmarks.orders import follow
from benchmarks.raw_client import PREDICTION
from clients.pace import closed_loop
from serving import predict_wire, warmup
from serving.servable import Servable, ServableOptions


def closed(servable: Servable, *, file: str, concurrency: int, seconds: float) -> dict[str, Any]:
    """A closed loop with the inputs of the PredictRequest in a file: as load.closed, and rss_bytes, of this process."""
    asked = predict_wire.parse(Path(file).read_bytes())

    def call() -> str:
        servable.answer(asked)
        return ""

    found = closed_loop([call] * concurrency, seconds)
    loop = {"calls_per_second": found.rate, "failed": found.failed, "latencies": found.latencies.tolist()}
    return {**loop, "rss_bytes": rss_bytes()}


def bare(servable: Servable) -> tuple[grpc.Server, str]:
    """A server whose calls are run and answered, and nothing else; and its address.

    No key, limit, deadline or metric: the floor of a server in Python.
    """

    def predict(content: bytes, _context: grpc.ServicerContext) -> bytes:
        answered = servable.answer(predict_wire.parse(content))
        return predict_wire.serialize(answered, as_content=False)

    handlers = {"Predict": grpc.unary_unary_rpc_method_handler(predict)}
    server = grpc.server(futures.ThreadPoolExecutor())
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(PREDICTION.strip("/"), handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


def main(version: Path) -> None:
    """Loads and warms the version, and follows orders until there are none."""
    tf.get_logger().setLevel(logging.ERROR)
    servable = Servable.load("model", int(version.name), version, ServableOptions())
    warmup.warm_up(servable, version, check_golden=False, iterations=1)
    server, address = bare(servable)
    follow({"closed": functools.partial(closed, servable), "bare": lambda: {"address": address}})
    server.stop(None)


def rss_bytes() -> int:
    """The memory of this process."""
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))
