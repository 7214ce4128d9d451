"""What the report of benchmarks/serving.py says; at what pace it asks is in test_pace.py."""

import pytest

from benchmarks.request_files import Request
from benchmarks.server_process import Usage
from benchmarks.serving import Bench, Settings, goals_missed, measure
from tests.documented import documented, fields


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
