"""What a client costs: beside one written by hand, behind the gateway, and in bulk.

    .venv/bin/python benchmarks/client.py

writes build/bench/client.json (docs/reports.md has its fields). The server, benchmarks/canned_server.py, answers at
once (64 x 1,408 floats, for JPEG), so that nothing hides the client. Who is compared takes turns on the same machine;
ratios hold on one that does other work too, rates do not.
"""

import base64
import contextlib
import dataclasses
import http.client
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from benchmarks.embedders import MODEL, ROWS
from benchmarks.orders import Orders
from benchmarks.server_process import ROOT, ServerError, free_ports
from vit22b import program

IMPORT_SECONDS, IMPORT_MB, RATIO = 0.5, 60.0, 1.0  # the goals
_SIDE = 224  # pixels
_WORKERS = (1, 2)
_PATIENCE = 60.0  # seconds until a program listens


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure the client on this machine."""

    output: Path = Path("build/bench/client.json")
    """Report to write."""
    seconds: float = 5.0
    """Length of one turn."""
    rounds: int = 5
    """Turns of each; the median of their ratios counts."""
    single: int = 200
    """Requests of a turn that are made one behind the other."""
    bulk_images: int = 20_000
    """Images of a bulk job."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.seconds <= 0 or self.single < 1 or self.bulk_images < 1:
            raise ValueError(
                f"--rounds {self.rounds} --seconds {self.seconds:g} --single {self.single} --bulk_images "
                f"{self.bulk_images}; expected more than 0 of each"
            )


def main(settings: Settings) -> int:
    """Measures, writes the report and prints it; 1 if a goal is missed."""
    with tempfile.TemporaryDirectory() as scratch, canned_server() as address:
        image = Path(scratch) / "image.jpg"
        image.write_bytes(jpeg())
        with embedder("ours", address, image) as ours, embedder("stubs", address, image) as stubs:
            timed = rates({"ours": ours, "stubs": stubs}, settings)
        report = assemble(
            imports(lambda kind: embedder(kind, address, image), settings),
            timed,
            gateway(address, image, settings),
            [bulk(address, image, workers, settings) for workers in _WORKERS],
        )
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    settings.output.write_text(json.dumps(report, indent=2) + "\n")
    show(report)
    print(settings.output)
    return 1 if report["goals_missed"] else 0


def assemble(
    imported: dict[str, Any], timed: list[dict[str, Any]], through: dict[str, Any], jobs: list[dict[str, Any]]
) -> dict[str, Any]:
    """The report."""
    report = {"cores": os.cpu_count(), **imported, "rates": timed, "gateway": through, "bulk": jobs}
    return {**report, "goals_missed": missed(report)}


def imports(start: Callable[[str], Orders], settings: Settings) -> dict[str, Any]:
    """Seconds and megabytes of the import, of ours and of TensorFlow Serving's stubs."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "stubs": []}
    for _ in range(settings.rounds):
        for kind, each in found.items():
            with start(kind) as process:
                each.append(process.order(do="loaded"))
    medians = {
        f"{kind}_{name}": statistics.median(one[name] for one in each)
        for kind, each in found.items()
        for name in ("import_seconds", "rss_mb")
    }
    ratios = {
        f"{name}_ratio": medians[f"stubs_{name}"] / medians[f"ours_{name}"] for name in ("import_seconds", "rss_mb")
    }
    return {name: round(value, 3) for name, value in {**medians, **ratios}.items()}


def rates(processes: Mapping[str, Orders], settings: Settings) -> list[dict[str, Any]]:
    """Images a second and processor time of each, with one request under way and with four."""
    rows = []
    for in_flight in (1, 4):
        found: dict[str, list[dict[str, float]]] = {"ours": [], "stubs": []}
        for number in range(settings.rounds):
            for kind in sorted(processes, reverse=bool(number % 2)):
                how = {"rows": ROWS, "in_flight": in_flight, "seconds": settings.seconds}
                found[kind].append(processes[kind].order(do="closed", **how))
        ratios = [
            one["images_per_second"] / other["images_per_second"]
            for one, other in zip(found["ours"], found["stubs"], strict=True)
        ]
        medians = {
            f"{kind}_{name}": round(statistics.median(turn[name] for turn in each), 4)
            for kind, each in found.items()
            for name in each[0]
        }
        by_round = [round(ratio, 3) for ratio in ratios]
        rows.append(
            {
                "in_flight": in_flight,
                **medians,
                "ratio": round(statistics.median(ratios), 3),
                "ratio_by_round": by_round,
            }
        )
    return rows


def gateway(address: str, image: Path, settings: Settings) -> dict[str, Any]:
    """Milliseconds that one image takes through the gateway, and by the client itself."""
    content = image.read_bytes()
    found: dict[str, list[float]] = {"client": [], "gateway": []}
    with embedder("ours", address, image) as ours, gateway_process(address) as host:
        for _ in range(settings.rounds):
            found["client"].append(ours.order(do="single", count=settings.single)["p50_ms"])
            found["gateway"].append(_posts(host, content, settings.single))
    return added(found)


def added(found: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The fields of `gateway`, of milliseconds by round."""
    differences = [one - other for one, other in zip(found["gateway"], found["client"], strict=True)]
    return {
        **{f"{who}_p50_ms": round(statistics.median(each), 3) for who, each in found.items()},
        "added_p50_ms": round(statistics.median(differences), 3),
    }


def bulk(address: str, image: Path, workers: int, settings: Settings) -> dict[str, Any]:
    """Images a second of a bulk job over a folder, with so many worker processes; start and end are within."""
    with tempfile.TemporaryDirectory(dir=image.parent) as scratch:
        photos = Path(scratch) / "photos"
        photos.mkdir()
        for number in range(settings.bulk_images):
            (photos / f"{number:06}.jpg").hardlink_to(image)
        flags = [
            f"--input={photos}",
            f"--output={scratch}/vectors",
            f"--address={address}",
            f"--model={MODEL}",
            "--json",
        ]
        flags += [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"]
        command = [sys.executable, str(ROOT / "clients" / "bulk_embed.py"), *flags, "--shard_rows=512"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return job(workers, json.loads(done.stdout.splitlines()[-1]))


def job(workers: int, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an item of `bulk`, of what the program says."""
    return {
        "workers": workers,
        "images": summary["images"],
        "seconds": round(summary["seconds"], 1),
        "images_per_second": round(summary["images_per_second"], 1),
    }


def missed(report: dict[str, Any]) -> list[str]:
    """The goals that a report does not reach, a line each."""
    found = []
    if report["ours_import_seconds"] > IMPORT_SECONDS:
        found.append(f"the import takes {report['ours_import_seconds']} s; the goal is {IMPORT_SECONDS:g}")
    if report["ours_rss_mb"] > IMPORT_MB:
        found.append(f"the import takes {report['ours_rss_mb']} MB; the goal is {IMPORT_MB:g}")
    return found + [
        f"with {row['in_flight']} requests under way ours / stubs is {row['ratio']}; the goal is {RATIO:g}"
        for row in report["rates"]
        if row["ratio"] < RATIO
    ]


def show(report: dict[str, Any]) -> None:
    """Prints a report."""
    console = program.table_console()
    table = Table("", "ours", "stubs by hand", "ratio")
    for name, unit in (("import_seconds", "s"), ("rss_mb", "MB")):
        ours, stubs = report[f"ours_{name}"], report[f"stubs_{name}"]
        table.add_row(f"import, {unit}", f"{ours:g}", f"{stubs:g}", f"{report[f'{name}_ratio']:g} times less")
    for row in report["rates"]:
        under_way = f"{row['in_flight']} under way"
        rate = [f"{row[f'{kind}_images_per_second']:,.0f}" for kind in ("ours", "stubs")]
        table.add_row(f"images/s, {under_way}", *rate, f"{row['ratio']:g}")
        cpu = [f"{row[f'{kind}_cpu_ms_per_image']:.3f} ({row[f'{kind}_cpu_share']:.0%})" for kind in ("ours", "stubs")]
        table.add_row(f"CPU ms an image (of the whole), {under_way}", *cpu, "")
    console.print(table)
    through = report["gateway"]
    console.print(f"one image: {through['client_p50_ms']} ms by the client, {through['gateway_p50_ms']} by the gateway")
    for row in report["bulk"]:
        console.print(f"bulk, {row['workers']} workers: {row['images_per_second']} images/s")
    for line in report["goals_missed"]:
        console.print(f"MISSED: {line}")


def jpeg() -> bytes:
    """A photograph's worth of bytes: smooth noise, 224 x 224."""
    noise = np.random.default_rng(0).integers(0, 256, (_SIDE // 8, _SIDE // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


@contextlib.contextmanager
def canned_server() -> Iterator[str]:
    """The address of the server."""
    command = [sys.executable, "-m", "benchmarks.canned_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextlib.contextmanager
def gateway_process(address: str) -> Iterator[str]:
    """Host and port of a gateway to the server."""
    (port,) = free_ports(1)
    command = [sys.executable, str(ROOT / "serving" / "gateway.py"), f"--port={port}", f"--model={MODEL}"]
    command += ["--address", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


def embedder(kind: str, address: str, image: Path) -> Orders:
    """A client as a process."""
    return Orders("benchmarks.embedders", kind, address, str(image))


def _posts(host: str, image: bytes, count: int) -> float:
    """The median of so many requests for one image's embedding, in milliseconds."""
    data = "data:image/jpeg;base64," + base64.b64encode(image).decode()
    body = json.dumps({"model": MODEL, "input": data, "encoding_format": "base64"})
    latencies = []
    with contextlib.closing(http.client.HTTPConnection(host)) as connection:
        for _ in range(count):
            begin = time.perf_counter()
            connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise ServerError(f"the gateway answers {answer.status}: {content[:300]!r}")
            latencies.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(latencies)


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    raise ServerError("the gateway does not listen")


if __name__ == "__main__":
    program.run(main, Settings, __doc__, failures=(ServerError, subprocess.CalledProcessError))
