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
from benchmarks.raw_client import PREDICTION, Grpc, Http
from clients.pace import arrival_times, closed_loop, open_loop

_PATIENCE = 120.0  # seconds
_PREDICT = PREDICTION + "Predict"
_FAILED = "FAILED"


def closed(address: str, file: str, *, rest: bool, concurrency: int, seconds: float) -> dict[str, Any]:
    """A closed loop: over HTTP each caller on a connection of its own, over gRPC all on one.

    Args:
        address: host:port.
        file: with the content of a request, as gRPC or as HTTP has it.
        rest: whether it is one of HTTP.
        concurrency: callers.
        seconds: how long.

    Returns:
        calls_per_second, failed, and latencies, a list of seconds.
    """
    content = Path(file).read_bytes()
    callers: list[Callable[[], str]] = []
    for number in range(concurrency):
        if rest:
            callers.append(functools.partial(_post, _http(address, number), content))
        else:
            callers.append(functools.partial(_call, _grpc(address), content))
    found = closed_loop(callers, seconds)
    return {"calls_per_second": found.rate, "failed": found.failed, "latencies": found.latencies.tolist()}


def opened(address: str, file: str, *, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """An open loop of a Poisson process, over gRPC, on one connection.

    Returns:
        sent, failed, and latencies, a list of seconds.
    """
    content = Path(file).read_bytes()
    grpc = _grpc(address)

    def send(done: Callable[[str], None]) -> None:
        call = grpc.begin(_PREDICT, content)
        call.add_done_callback(lambda call: done("" if call.exception() is None else _FAILED))

    times = arrival_times(rate, seconds, seed=seed)
    found = open_loop(send, times)
    return {"sent": len(times), "failed": found.failed, "latencies": found.latencies.tolist()}


def _post(http: Http, content: bytes) -> str:
    code = http.send(content).code
    return "" if code == "200" else code


def _call(grpc: Grpc, content: bytes) -> str:
    return "" if grpc.call(_PREDICT, content) else _FAILED


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
