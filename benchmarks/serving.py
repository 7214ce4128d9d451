"""What a server costs beside the session that it runs.

    .venv/bin/python benchmarks/serving.py

writes build/bench/serving.json (docs/reports.md has its fields). One version with random weights is served by the real
program, and is run by its session alone in another process. Both take turns, with the same requests at the same
concurrency, so that ratios hold on a machine that does other work too; rates do not. The client is a process of its own
that sends bytes (benchmarks/load.py): on few cores what it takes is missing at the server, and the ratio counts it as
the server's. What a request takes longer is told beside what it takes longer over the least server that grpcio
allows: the transport's part, which no server in Python goes below.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from benchmarks import random_model
from benchmarks.orders import Orders
from benchmarks.request_files import Request, write_requests
from benchmarks.server_process import ServerError, ServerProcess
from vit22b import program

MODEL = "model"
RATIO, ADDED_MS = 0.95, 1.0  # the goals
_THREADS = 64  # of the server, so that none of an open loop is refused
_SHORT_TURNS = 20  # in a turn
_SHARES = (0.3, 0.6, 0.9)  # of the saturation


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure the server on this machine."""

    output: Path = Path("build/bench/serving.json")
    """Report to write."""
    size: str = "S"
    """Name of a size, as train/pretrain.py takes it."""
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    """Allowed batch sizes of the version."""
    concurrency: int = 16
    """Requests at once, for the saturation."""
    seconds: float = 10.0
    """Length of one turn; of an open loop, six of them."""
    rounds: int = 5
    """Turns of each; the median of their ratios counts."""
    folder: Path = Path("build/bench/serving")
    """Where the version goes, which is made once, and the requests."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.concurrency < 1 or self.seconds <= 0:
            raise ValueError(
                f"--rounds {self.rounds} --concurrency {self.concurrency} --seconds {self.seconds:g}; expected more "
                "than 0 of each"
            )


@dataclasses.dataclass(frozen=True)
class Bench:
    """The server, its session alone, and the client."""

    server: ServerProcess
    session: Orders
    client: Orders
    settings: Settings

    @functools.cached_property
    def bare(self) -> str:
        """Address of the least server."""
        return self.session.order(do="bare")["address"]

    def turn(self, who: str, of: Request, concurrency: int, seconds: float) -> dict[str, Any]:
        """One turn of "grpc", "rest", "session", or "bare", the session's own gRPC port with nothing around it."""
        how = {"do": "closed", "concurrency": concurrency, "seconds": seconds}
        if who == "session":
            return self.session.order(file=of.grpc, **how)
        address = {"rest": self.server.rest, "grpc": self.server.grpc}.get(who) or self.bare
        rest = who == "rest"
        found = self.client.order(address=address, file=of.rest if rest else of.grpc, rest=rest, **how)
        if found["failed"]:
            raise ServerError(f"{found['failed']} requests {of.name} over {who} failed")
        return found

    def saturation(self, of: Request, concurrency: int) -> dict[str, Any]:
        """Images a second of each, and the medians of their ratios."""
        rates: dict[str, list[float]] = {"session": [], "grpc": [], "rest": []}
        for number in range(self.settings.rounds):
            for who in sorted(rates, reverse=bool(number % 2)):
                rates[who].append(of.rows * self.turn(who, of, concurrency, self.settings.seconds)["calls_per_second"])
        by_round = [grpc / session for grpc, session in zip(rates["grpc"], rates["session"], strict=True)]
        return {
            "request": of.name,
            "rows": of.rows,
            "concurrency": concurrency,
            **{f"{who}_images_per_second": round(statistics.median(each), 2) for who, each in rates.items()},
            "grpc_to_session": round(statistics.median(by_round), 4),
            "grpc_to_session_by_round": [round(ratio, 4) for ratio in by_round],
            "rest_to_grpc": round(
                statistics.median(rest / grpc for rest, grpc in zip(rates["rest"], rates["grpc"], strict=True)), 4
            ),
        }

    def latency(self, of: Request) -> dict[str, Any]:
        """Milliseconds of one request at a time, and what a wire adds to the session's.

        The turns are short and many: what is looked for is a thousandth of the runs that it is in.
        """
        found: dict[str, list[float]] = {"session": [], "bare": [], "grpc": [], "rest": []}
        for number in range(_SHORT_TURNS * self.settings.rounds):
            for who in sorted(found, reverse=bool(number % 2)):
                turn = self.turn(who, of, 1, self.settings.seconds / _SHORT_TURNS)
                found[who].append(1e3 * statistics.median(turn["latencies"]))
        added = np.subtract(found["grpc"], found["session"])
        return {
            "request": of.name,
            "rows": of.rows,
            **{f"{who}_p50_ms": round(statistics.median(each), 3) for who, each in found.items()},
            "added_p50_ms": round(float(np.median(added)), 3),
            "added_p50_ms_quartiles": [round(float(each), 3) for each in np.quantile(added, (0.25, 0.75))],
            "added_over_bare_p50_ms": round(float(np.median(np.subtract(found["grpc"], found["bare"]))), 3),
        }

    def open_loop(self, of: Request, share: float, saturation: float) -> dict[str, Any]:
        """Latencies where requests come by a Poisson process, at a share of the saturation."""
        rate = share * saturation / of.rows
        seconds = 6 * self.settings.seconds
        found = self.client.order(
            do="opened", address=self.server.grpc, file=of.grpc, rate=rate, seconds=seconds, seed=0
        )
        quantiles = 1e3 * np.quantile(found["latencies"], (0.5, 0.95, 0.99))
        return {
            "request": of.name,
            "share_of_saturation": share,
            "requests_per_second": round(rate, 3),
            "sent": found["sent"],
            "failed": found["failed"],
            **{f"p{n}_ms": round(float(ms), 1) for n, ms in zip((50, 95, 99), quantiles, strict=True)},
        }


def main(settings: Settings) -> None:
    """Measures, writes the report and prints it."""
    folder = settings.folder.absolute()
    description = random_model.image_tower(settings.size)
    random_model.export(description, folder / MODEL, settings.batch_sizes)
    requests = write_requests(folder, MODEL, description.preprocess.resolution)
    flags = [f"--model_name={MODEL}", f"--model_base_path={folder / MODEL}", f"--grpc_max_threads={_THREADS}"]
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(Orders("benchmarks.in_process", str(folder / MODEL / "1")))
        server = stack.enter_context(ServerProcess(flags, folder / "server.log"))
        client = stack.enter_context(Orders("benchmarks.load"))
        report = measure(Bench(server, session, client, settings), requests)
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    settings.output.write_text(json.dumps(report, indent=2) + "\n")
    for kind in ("saturation", "latency", "open_loop"):
        show(report[kind])
    for goal in report["goals_missed"]:
        print(f"missed: {goal}")
    print(settings.output)


def measure(bench: Bench, requests: Mapping[str, Request]) -> dict[str, Any]:
    """The report."""
    settings = bench.settings
    pixels = requests["pixels"]
    saturation = [bench.saturation(pixels, settings.concurrency)]
    print(saturation[0], flush=True)
    saturation.append(bench.saturation(requests["image bytes"], settings.concurrency))
    latency = [bench.latency(each) for each in requests.values()]
    most = saturation[0]["grpc_images_per_second"]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "tensorflow": importlib.metadata.version("tensorflow"),
        "grpc": importlib.metadata.version("grpcio"),
        "size": settings.size,
        "batch_sizes": settings.batch_sizes,
        "seconds": settings.seconds,
        "rounds": settings.rounds,
        "start_seconds": round(bench.server.start_seconds, 2),
        "saturation": saturation,
        "latency": latency,
        "open_loop": [bench.open_loop(pixels, share, most) for share in _SHARES],
        "server_rss_bytes": bench.server.usage().rss_bytes,
        "session_rss_bytes": bench.turn("session", pixels, 1, settings.seconds)["rss_bytes"],
        "goals_missed": goals_missed(saturation, latency),
    }


def goals_missed(saturation: Sequence[Mapping[str, Any]], latency: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which of the goals are not reached: for pixels the ratio, and of every request the added latency."""
    return [
        f"{row['request']}: {row['grpc_to_session']} of the session's images a second over gRPC; the goal is {RATIO}"
        for row in saturation
        if row["request"] == "pixels" and row["grpc_to_session"] < RATIO
    ] + [
        f"{row['request']}: gRPC adds {row['added_p50_ms']} ms; the goal is less than {ADDED_MS:g}"
        for row in latency
        if row["added_p50_ms"] >= ADDED_MS
    ]


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    program.table_console().print(table)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    program.run(main, Settings, __doc__, failures=(ServerError, subprocess.CalledProcessError))
