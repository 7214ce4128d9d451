"""Lets a server live through a bad week in minutes: everybody asks at once, versions come and go, and then SIGTERM.

    .venv/bin/python benchmarks/soak_serving.py --seconds 180

writes build/soak/report.json (docs/reports.md has its fields). The real program serves a small model with random
weights. Patient, hasty and rude clients ask over both wires what it can be asked, with images that are none among it,
and at times more than it takes. Meanwhile versions are rolled out, broken and rolled back. Every answer is compared
with the golden one of the version that it says. Exit code 1, with a line for each, if anything is not as it should be.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import golden_answers, random_model, traffic
from benchmarks.crowd import PATIENCE, Crowd
from benchmarks.rollout import Rollout
from benchmarks.server_process import ServerError, ServerProcess, Usage
from benchmarks.tally import Tally
from vit22b import program

MODEL = "vit"
BATCH_SIZES = (4,)
GROWTH = 0.05  # of the memory, that is allowed
GROWTH_OF_POOLS = 0.25  # of the threads that TensorFlow and gRPC start by load: by chance a few more, a leak is more
_SETTLING = 10  # looks at most, until connections and threads that have ended are gone
_VERSIONS = 3  # one behind the other, the least memory of which counts
_EVERY = 10.0  # seconds between two lines
_LARGE = 5000  # pixels a side of the images that are under way when SIGTERM comes
_MIDDLING = 600  # pixels a side of images that hold a thread for a moment
_FILL = 80  # of those at once, over each wire
_AT_WORK = 0.4  # seconds after which those images are being decoded
# A version compiles a dozen programs, with these in a fraction of the time; nobody counts how fast they are.
_COMPILE_FAST = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"}
_FLAGS = (
    "--check_golden",
    "--max_num_load_retries=0",
    "--grpc_max_threads=32",
    "--max_pending=64",
    "--rest_api_timeout_in_ms=120000",
    "--statusz",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Soak the server."""

    seconds: float = 180.0
    """How long, after the warm-up."""
    grpc: int = 6
    """Patient clients over gRPC."""
    rest: int = 4
    """Patient clients over REST."""
    folder: Path = Path("build/soak")
    """Where the models go, which are made once, and the report."""
    seed: int = 0
    """Of what the clients ask."""

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.grpc < 1 or self.rest < 1:
            raise ValueError(
                f"--seconds {self.seconds:g} --grpc {self.grpc} --rest {self.rest}; expected more than 0 of each"
            )


def main(settings: Settings) -> int:
    """Soaks, writes the report and says what is not as it should be."""
    folder = settings.folder.absolute()
    exports = folder / "exports" / MODEL
    random_model.export(random_model.zero_shot(), exports, BATCH_SIZES, versions=2)
    shutil.rmtree(folder / "served", ignore_errors=True)
    rollout = Rollout(folder / "served" / MODEL, exports / "1", exports / "2")
    goldens = golden_answers.read(exports / "1", exports / "2")
    monitoring = folder / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }\n")
    flags = [f"--model_name={MODEL}", f"--model_base_path={folder / 'served' / MODEL}"]
    flags += [*_FLAGS, f"--monitoring_config_file={monitoring}"]
    (folder / "report.json").unlink(missing_ok=True)  # of a run before, which must not stand for one that fails
    with ServerProcess(flags, folder / "server.log", environment=_COMPILE_FAST) as server:
        report = soak(settings, server, rollout, goldens)
    report["problems"] = problems(report)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    for problem in report["problems"]:
        print(problem)
    print(folder / "report.json")
    return 1 if report["problems"] else 0


def soak(
    settings: Settings, server: ServerProcess, rollout: Rollout, goldens: Sequence[golden_answers.Golden]
) -> dict[str, Any]:
    """The fields of the report but for `problems`."""
    tally = Tally()
    crowd = Crowd(server.grpc, server.rest, traffic.asks(MODEL, goldens), tally, settings.seed)
    crowd.version = rollout.current
    rollout.follow(server.grpc)
    crowd.start(settings.grpc, settings.rest)
    change = _Changes(rollout, tally, crowd)
    begin = time.monotonic()
    for _ in _Changes.KINDS:
        change.next()
    # What grows with the number of requests at once has to be there at the start.
    crowd.ask_at_once(_FILL * traffic.slow(MODEL, goldens, _MIDDLING))
    start, warm = _usage(server, crowd, change), time.monotonic()
    print(f"warm after {warm - begin:.0f} s: {start}", flush=True)
    told = warm
    while (now := time.monotonic()) < warm + settings.seconds:
        change.next()
        if now >= told + _EVERY:
            told = now
            print(f"{now - warm:.0f} s: {tally.sent} sent, {rollout.switched} switches, {server.usage()}", flush=True)
    end, seconds = _usage(server, crowd, change), time.monotonic() - begin
    rate = tally.sent / seconds
    large = traffic.slow(MODEL, goldens, _LARGE)
    code = _end(server, crowd, tally, large)
    rollout.close()
    return {
        "seconds": round(seconds, 1),
        "requests_per_second": round(rate, 1),
        **tally.fields(),
        "clients_that_died": crowd.defects,
        "versions_switched": rollout.switched,
        "broken_versions_refused": rollout.refused,
        **_fields("start", start),
        **_fields("end", end),
        "rss_growth": round(end.rss_bytes / start.rss_bytes - 1, 4),
        "under_way_at_sigterm": len(large) * _EACH,
        "exit_code": code,
        "server_faults": server.faults(),
    }


_EACH = 2  # of the large images, at once


class _Changes:
    """What happens to the versions, in turns."""

    KINDS = ("switch", "break_one", "roll_back", "switch")

    def __init__(self, rollout: Rollout, tally: Tally, crowd: Crowd):
        self._rollout, self._tally, self._crowd = rollout, tally, crowd
        self._done = 0

    def next(self) -> None:
        self.make(self.KINDS[self._done % len(self.KINDS)])
        self._done += 1
        time.sleep(1.0)  # one version alone, which must not refuse those that ask for it

    def make(self, kind: str) -> None:
        change: Callable[[], None] = getattr(self._rollout, kind)
        with self._tally.switching():
            change()
        self._crowd.version = self._rollout.current


def _usage(server: ServerProcess, crowd: Crowd, change: _Changes) -> Usage:
    """What the server has while nobody asks, with versions that nobody has asked yet: the least memory, the most else.

    TensorFlow starts threads for the requests that a version has at once, and ends them with the version. The memory
    is what is in use, and between it what the C library could not give back: by chance more or less with each version.
    A leak raises the least of several.
    """
    with crowd.gate.closed():
        found = [_settled(server, change) for _ in range(_VERSIONS)]
    names = ("descriptors", "threads", "threads_of_pools")
    most = {name: max(getattr(usage, name) for usage in found) for name in names}
    return Usage(rss_bytes=min(usage.rss_bytes for usage in found), **most)


def _settled(server: ServerProcess, change: _Changes) -> Usage:
    """What it has with the next version, once connections and threads that have ended are gone."""
    change.make("switch")
    usage = server.usage()
    for _ in range(_SETTLING):
        time.sleep(2.0)
        before, usage = usage, server.usage()
        if usage.threads == before.threads and usage.descriptors == before.descriptors:
            break
    return usage


def _end(server: ServerProcess, crowd: Crowd, tally: Tally, large: Sequence[traffic.Ask]) -> int:
    """Sends SIGTERM while large images are being decoded and everybody asks; the exit code."""
    at_work = {"at_work": True}
    slow = [threading.Thread(target=crowd.ask, args=(ask,), kwargs=at_work) for ask in large for _ in range(_EACH)]
    for thread in slow:
        thread.start()
    time.sleep(_AT_WORK)
    tally.terminated = time.monotonic()
    server.terminate()
    code = server.wait(PATIENCE)
    for thread in slow:
        thread.join()
    crowd.stop()
    return code


def _fields(when: str, usage: Usage) -> dict[str, int]:
    return {f"{name}_{when}": value for name, value in dataclasses.asdict(usage).items()}


def problems(report: dict[str, Any]) -> list[str]:
    """What of a report is not as it should be, a line each."""
    found = [
        f"{report[name]} {name.replace('_', ' ')}; expected none" for name in ("wrong_answers", "lost") if report[name]
    ]
    found += [
        f"{failure['times']} requests over {failure['api']} failed with {failure['code']}, which was not expected"
        for failure in report["failed"]
        if not failure["expected"]
    ]
    found += report["details"] + report["clients_that_died"]
    if report["rss_growth"] > GROWTH:
        found.append(f"the memory has grown by {report['rss_growth']:.1%}; expected at most {GROWTH:.0%}")
    for name, allowed in (("descriptors", 0.0), ("threads", 0.0), ("threads_of_pools", GROWTH_OF_POOLS)):
        if report[f"{name}_end"] > (1 + allowed) * report[f"{name}_start"]:
            found.append(f"{name} have grown from {report[f'{name}_start']} to {report[f'{name}_end']}")
    if not report["versions_switched"]:
        found.append("no version took the place of another")
    if report["exit_code"]:
        found.append(f"the server ended with code {report['exit_code']}; expected 0")
    return found + [f"the server's log: {line}" for line in report["server_faults"]]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    program.run(main, Settings, __doc__, failures=(ServerError, subprocess.CalledProcessError))
