"""Sends a request to a server again and again, as a process of its own that costs little.

    .venv/bin/python -m benchmarks.load

For benchmarks/serving.py, at the client's end of the walk SavedModel -> server -> [client]. Orders come as orders.py
has them. Requests are read once and sent as bytes, answers are counted and not read: on a machine that is both ends,
what the client takes is missing at the server.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.orders import follow
from benchmarks.pace import closed_loop, open_loop
from benchmarks.raw_client import PREDICTION, Grpc, Http

_PATIENCE = 120.0  # seconds
_PREDICT = PREDICTION + "Predict"


def closed(address: str, file: str, *, rest: bool, concurrency: int, seconds: float) -> dict[str, Any]:
    """As pace.closed_loop: over HTTP each caller on a connection of its own, over gRPC all on one.

    Args:
        address: host:port.
        file: with the content of a request, as gRPC or as HTTP has it.
        rest: whether it is one of HTTP.
        concurrency: callers.
        seconds: how long.
    """
    content = Path(file).read_bytes()
    callers: list[Callable[[], bool]] = []
    for number in range(concurrency):
        if rest:
            http = _http(address, number)
            callers.append(lambda http=http: http.send(content).code == "200")
        else:
            grpc = _grpc(address)
            callers.append(lambda grpc=grpc: grpc.call(_PREDICT, content))
    return closed_loop(callers, seconds)


def opened(address: str, file: str, *, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """As pace.open_loop, over gRPC, on one connection."""
    content = Path(file).read_bytes()
    grpc = _grpc(address)
    return open_loop(lambda: grpc.begin(_PREDICT, content), rate, seconds, seed)


@functools.cache
def _grpc(address: str) -> Grpc:
    """The connection, which stays open from order to order."""
    return Grpc(address)


@functools.cache
def _http(address: str, number: int) -> Http:
    """One of the connections."""
    del number
    return Http(address, _PATIENCE)


if __name__ == "__main__":
    follow({"closed": closed, "opened": opened})
