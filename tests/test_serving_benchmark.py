"""How a server is timed, and what the report says; benchmarks/serving.py times it."""

import itertools
import threading
import time
from concurrent import futures

import pytest

from benchmarks.pace import closed_loop, open_loop
from benchmarks.request_files import Request
from benchmarks.server_process import Usage
from benchmarks.serving import Bench, Settings, goals_missed, measure
from tests.documented import documented, fields


def test_a_closed_loop_counts_what_was_answered_and_what_was_not():
    calls = itertools.count()

    def answer():
        time.sleep(0.001)
        return next(calls) % 2 == 0

    found = closed_loop([answer], seconds=0.05)
    assert found["failed"] >= 1
    assert abs(len(found["latencies"]) - found["failed"]) <= 1
    assert 0 < found["calls_per_second"] <= len(found["latencies"]) / 0.05


def test_callers_of_a_closed_loop_call_at_once():
    together = threading.Barrier(3)
    first = [True] * 3

    def caller(number):
        def call():
            if first[number]:  # how often each calls after that is its own affair
                first[number] = False
                together.wait(60)
            return True

        return call

    found = closed_loop([caller(number) for number in range(3)], seconds=0.01)
    assert found["failed"] == 0
    assert len(found["latencies"]) >= 3


def test_an_open_loop_counts_from_when_a_request_was_due():
    """The first one holds up the sender: those that are due meanwhile have waited too."""

    def begin():
        call = futures.Future()
        if not sent:
            time.sleep(0.3)
        sent.append(call)
        call.set_result(b"")
        return call

    sent = []
    found = open_loop(begin, rate=100.0, seconds=0.2, seed=0)
    assert found["sent"] == len(sent) == len(found["latencies"]) == 20
    assert sum(latency > 0.1 for latency in found["latencies"]) >= 10


def test_an_open_loop_counts_failures():
    def begin():
        call = futures.Future()
        call.set_exception(OSError("no"))
        return call

    found = open_loop(begin, rate=1000.0, seconds=0.01, seed=0)
    assert (found["sent"], found["failed"], found["latencies"]) == (10, 10, [])


@pytest.mark.parametrize(
    ("ratio", "added", "missed"),
    [
        (0.95, 0.99, []),
        (0.94, 0.5, ["pixels: 0.94 of the session's images a second over gRPC; the goal is 0.95"]),
        (1.0, 1.2, ["pixels: gRPC adds 1.2 ms; the goal is less than 1"]),
    ],
)
def test_goals_that_are_missed_are_told(ratio, added, missed):
    row = {"request": "pixels", "grpc_to_session": ratio, "added_p50_ms": added}
    assert goals_missed([row], [row]) == missed


class Server:
    """What the report asks of a server's process."""

    grpc = rest = "127.0.0.1:1"
    start_seconds = 1.0

    def usage(self):
        return Usage(1, 1, 1, 1)


class Orders:
    """What carries out every order in the same time."""

    def order(self, *, do, **_order):
        if do == "bare":
            return {"address": "127.0.0.1:2"}
        found = {"failed": 0, "latencies": [0.002, 0.004, 0.006], "rss_bytes": 2}
        return {**found, "calls_per_second": 250.0} if do == "closed" else {**found, "sent": 3}


def test_the_fields_of_the_report_are_documented():
    requests = {name: Request(name, 1, "", "") for name in ("pixels", "image bytes")}
    report = measure(Bench(Server(), Orders(), Orders(), Settings(rounds=2)), requests)
    assert documented("build/bench/serving.json") == fields(report)
    assert report["saturation"][0]["grpc_to_session"] == 1.0
    assert report["latency"][0]["added_p50_ms"] == 0.0
    assert report["open_loop"][2]["requests_per_second"] == 225.0
    assert report["open_loop"][0]["p50_ms"] == 4.0
    assert report["goals_missed"] == []


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="--rounds 0 --concurrency 16 --seconds 10; expected more than 0 of each"):
        Settings(rounds=0)
