"""Loads a served model, and says how long its answers took.

    .venv/bin/python clients/bench.py --model mine --concurrency 4 --seconds 20
    .venv/bin/python clients/bench.py photos --model mine --rate 50 --seconds 60 --json > open.json

At the client's end of the walk SavedModel -> server -> client. With --concurrency so many callers send a request each
as soon as they have their last answer (a closed loop): what a server can do at most. With --rate requests come at times
of their own, as those of many users do (an open loop), and a latency counts from the moment that a request was due, so
that what waits behind a slow answer is seen (no coordinated omission). There are no retries. Exits with 1 if a request
failed, with 2 if the arguments are wrong, with 130 if it was interrupted, after the report of what was measured.
"""

import contextlib
import dataclasses
import json
import math
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import rich.console
import rich.table
import tyro

from clients import latency
from clients.arguments import Server
from clients.image_list import list_images
from clients.load_requests import Kind, Sender, Wanted, make_requests
from clients.pace import Arrivals, Outcome, arrival_times, closed_loop, open_loop
from clients.terminal import bar
from vit22b import program
from vit22b.described import Description
from vit22b.errors import VitError

BAR = 40
_LATE_MS = 10.0  # of the sender, from which on people are warned


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Loads a served model.

    Attributes:
        images: files, or folders of them, of which up to 64 are sent; - reads a list of them from stdin, one a line.
            Without any images are made.
        server: where the model is. Its retries are not used.
        send: encoded images, decoded pixels, or texts.
        rows: in a request.
        side: of made images, in pixels.
        concurrency: callers of a closed loop.
        rate: requests a second of an open loop, in place of --concurrency.
        arrivals: when the requests of an open loop are due. poisson: independent of each other; constant: at equal
            distances.
        seconds: how long is measured.
        warm_up: seconds before that, in which the same is sent and not counted.
        most_pending: requests of an open loop under way at once; what is due beyond that fails, as NOT_SENT.
        seed: of the times of an open loop.
        json: print JSON in place of tables.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")] = ()
    server: Server = dataclasses.field(default_factory=Server)
    send: Kind = "images"
    rows: int = 1
    side: int = 256
    concurrency: int = 1
    rate: float | None = None
    arrivals: Arrivals = "poisson"
    seconds: float = 10.0
    warm_up: float = 2.0
    most_pending: int = 10_000
    seed: int = 0
    json: bool = False

    def check(self) -> None:
        """Raises ValueError, before any work is done, for numbers that cannot be."""
        for name in ("side", "concurrency", "seconds", "most_pending"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if not 0 <= self.warm_up < math.inf or (self.rate is not None and not 0 < self.rate < math.inf):
            raise ValueError(f"warm_up is {self.warm_up} and rate {self.rate}; expected 0 or more, and more than 0")
        if self.rate is not None and self.concurrency != 1:
            raise ValueError("both --rate and --concurrency are given; an open loop has no number of callers")
        if self.images and self.send != "images":
            raise ValueError(f"images are given, and {self.send} are to be sent; leave one of them out")


def main(arguments: Arguments) -> int:
    """Loads, and prints what came of it; the exit code."""
    arguments.check()
    records = list_images(arguments.images) if arguments.images else []
    with arguments.server.client() as client:
        about = client.describe()
    wanted = Wanted(arguments.send, arguments.rows, records, arguments.side)
    requests = make_requests(wanted, arguments.server.model, about)
    console = rich.console.Console(stderr=True)
    with (
        contextlib.closing(Sender(arguments.server, requests)) as sender,
        interruptible() as stop,
        console.status(f"{arguments.warm_up + arguments.seconds:g} s"),
    ):
        outcome = load(sender, arguments, stop)
    report = document(arguments, about, outcome)
    if arguments.json:
        print(json.dumps(report))
    else:
        show(report)
    warn(report)
    if stop.is_set():
        raise program.Interrupted("interrupted", 130)
    return 1 if report["failures"] or not report["answered"] else 0


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that what was measured is told; the second one ends the program."""
    stop = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def interrupt(_number: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def load(sender: Sender, arguments: Arguments, stop: threading.Event) -> Outcome:
    """Sends as the arguments say."""
    seconds, warm_up = arguments.seconds, arguments.warm_up
    if arguments.rate is None:
        return closed_loop([sender.call] * arguments.concurrency, seconds, warm_up=warm_up, stop=stop)
    times = arrival_times(arguments.rate, warm_up + seconds, arguments.arrivals, arguments.seed)
    return open_loop(sender.send, times, warm_up=warm_up, most=arguments.most_pending, stop=stop)


def document(arguments: Arguments, about: Description, outcome: Outcome) -> dict[str, Any]:
    """What --json prints; docs/clients.md has the fields."""
    opened = arguments.rate is not None
    return {
        "address": arguments.server.address,
        "model": arguments.server.model,
        "version": about.version,
        "send": arguments.send,
        "rows": arguments.rows,
        "loop": "open" if opened else "closed",
        "concurrency": None if opened else arguments.concurrency,
        "rate": arguments.rate,
        "arrivals": arguments.arrivals if opened else None,
        "seconds": round(outcome.seconds, 3),
        "answered": len(outcome.latencies),
        "failures": outcome.failures,
        "requests_per_second": round(outcome.rate, 3),
        "rows_per_second": round(outcome.rate * arguments.rows, 3),
        "latency_ms": latency.summary(outcome.latencies),
        "sender_late_ms": latency.summary(outcome.lateness) if opened else None,
        "histogram": [dataclasses.asdict(bucket) for bucket in latency.histogram(outcome.latencies)],
    }


def show(report: dict[str, Any]) -> None:
    """Prints the rate, the percentiles, the histogram, and what failed."""
    console = program.table_console()
    rates = f"{report['requests_per_second']:,.1f} requests/s, {report['rows_per_second']:,.1f} rows/s"
    console.print(f"{report['answered']} answered in {report['seconds']:g} s: {rates}", highlight=False)
    if report["answered"]:
        names = report["latency_ms"]
        table = rich.table.Table("", *names)
        table.add_row("latency, ms", *(f"{value:.2f}" for value in names.values()))
        console.print(table)
        most = max(bucket["count"] for bucket in report["histogram"])
        chart = rich.table.Table("ms", "requests", "")
        for bucket in report["histogram"]:
            drawn = bar(bucket["count"] / most, BAR, console.encoding)
            chart.add_row(f"{bucket['low_ms']:.2f} to {bucket['high_ms']:.2f}", str(bucket["count"]), drawn)
        console.print(chart)
    for code, count in report["failures"].items():
        console.print(f"{count} failed: {code}", highlight=False, markup=False)


def warn(report: dict[str, Any]) -> None:
    """Says on stderr where the numbers are more the sender's than the server's, and why requests were refused."""
    late = (report["sender_late_ms"] or {}).get("p99")
    if late is not None and late > _LATE_MS:
        print(
            f"warning: one request in a hundred was sent {late:.0f} ms late or more, which is in its latency; "
            "this machine cannot keep the rate",
            file=sys.stderr,
        )
    if "RESOURCE_EXHAUSTED" in report["failures"]:
        print(
            "warning: the server took fewer requests at once than were sent (TensorFlow Serving's threads are four a "
            "core, those of the embedded server --grpc_max_threads); take fewer callers or a lower rate",
            file=sys.stderr,
        )


if __name__ == "__main__":
    program.run(main, Arguments, __doc__, failures=(VitError,))
