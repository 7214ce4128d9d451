import itertools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from clients import bench, latency
from tests.standin import StandIn, closed_address, picture, serve
from tests.waiting import until
from vit22b import signature
from vit22b.errors import VitError
from vit22b.tensors import from_wire

PROGRAM = Path(__file__).parents[1] / "clients" / "bench.py"
SHORT = ["--seconds=0.2", "--warm_up=0.05"]


@pytest.fixture
def call(standin: StandIn, run_program: Callable[..., int]) -> Callable[..., int]:
    def call(*arguments: object, address: str = standin.address) -> int:
        return run_program(bench.main, bench.Arguments, f"--address={address}", *arguments, failures=(VitError,))

    return call


def test_a_closed_loop_has_as_many_requests_under_way_as_callers(call, standin: StandIn, capsys):
    standin.delay = 0.01
    assert call("--concurrency=3", "--json", *SHORT) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["loop"], report["concurrency"], report["rate"], report["arrivals"]) == ("closed", 3, None, None)
    assert (report["version"], report["failures"], report["sender_late_ms"]) == (1, {}, None)
    assert standin.most_under_way == 3
    assert 3 <= report["answered"] < len(standin.requests)  # those to warm up are among them
    assert report["latency_ms"]["min"] >= 10
    assert sum(bucket["count"] for bucket in report["histogram"]) == report["answered"]
    assert report["requests_per_second"] == pytest.approx(report["answered"] / report["seconds"], rel=0.01)


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_an_open_loop_sends_at_a_rate(call, standin: StandIn, capsys, arrivals: str):
    assert call("--rate=100", f"--arrivals={arrivals}", "--json", "--warm_up=0.1", "--seconds=0.3") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["loop"], report["concurrency"], report["arrivals"]) == ("open", None, arrivals)
    assert len(standin.asked(signature.EMBED_IMAGE)) == 40
    assert 10 < report["answered"] < 40
    assert report["sender_late_ms"]["max"] >= 0


def test_the_images_of_a_folder_are_sent_in_turn(call, standin: StandIn, tmp_path: Path):
    sent = {picture(colour) for colour in ("red", "green", "blue")}
    for number, content in enumerate(sent):
        (tmp_path / f"{number}.png").write_bytes(content)
    assert call(tmp_path, "--rows=2", *SHORT) == 0
    asked = [from_wire(request.inputs[signature.IMAGE_BYTES]) for request in standin.asked(signature.EMBED_IMAGE)]
    assert {len(rows) for rows in asked} == {2}
    assert {image for rows in asked for image in rows} == sent


def test_pixels(call, standin: StandIn):
    assert call("--send=pixels", "--rows=4", *SHORT) == 0
    request = standin.asked(signature.EMBED_PIXELS)[0]
    assert [size.size for size in request.inputs[signature.PIXELS].tensor_shape.dim] == [4, 4, 4, 3]


def test_failures_are_counted_by_code_and_not_tried_again(call, standin: StandIn, capsys):
    """Also those of texts: the stand-in has no words for most of them."""
    standin.refusals = [None] + 3 * [(grpc.StatusCode.UNAVAILABLE, "batch scheduling queue is full")]
    assert call("--rate=20", "--arrivals=constant", "--warm_up=0", "--seconds=0.5") == 1
    out = capsys.readouterr().out
    assert "3 failed: UNAVAILABLE" in out
    assert "7 answered" in out
    assert call("--send=texts", *SHORT) == 1
    assert "failed: INVALID_ARGUMENT" in capsys.readouterr().out


def test_who_sends_more_than_a_server_takes_is_told_why(call, standin: StandIn, capsys):
    full = grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted"
    standin.refusals = [None, full]
    assert call("--rate=20", "--arrivals=constant", "--warm_up=0", "--seconds=0.2") == 1
    out, err = capsys.readouterr()
    assert "1 failed: RESOURCE_EXHAUSTED" in out
    assert "take fewer callers or a lower rate" in err


class Stalls(StandIn):
    """Answers one request after the other, and the tenth late."""

    def predict(self, request, context):
        with self.turn:
            self.delay = 0.5 if len(self.requests) == 9 else 0.0
            return super().predict(request, context)

    turn = threading.Lock()


@pytest.mark.parametrize(
    ("flags", "fewest", "most"), [(["--concurrency=1"], 1, 2), (["--rate=50", "--arrivals=constant"], 6, 40)]
)
def test_a_server_that_stands_still_holds_up_one_caller_of_a_closed_loop_and_all_of_an_open_one(
    call, capsys, flags: list[str], fewest: int, most: int
):
    with serve(Stalls()) as stalls:
        assert call(*flags, "--json", "--seconds=0.8", "--warm_up=0", address=stalls.address) == 0
    report = json.loads(capsys.readouterr().out)
    slow = sum(bucket["count"] for bucket in report["histogram"] if bucket["low_ms"] > 200)
    assert fewest <= slow <= most


def test_an_interrupt_ends_it_with_a_report(standin: StandIn):
    command = [sys.executable, PROGRAM, f"--address={standin.address}", "--seconds=3600", "--warm_up=0", "--json"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: len(standin.requests) > 5)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "interrupted\n")
    assert json.loads(out)["answered"] >= 4


def test_the_program_shows_a_histogram(standin: StandIn):
    command = [sys.executable, PROGRAM, f"--address={standin.address}", *SHORT]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "requests/s" in found.stdout
    assert "p99.9" in found.stdout
    assert "█" * 40 in found.stdout  # the fullest bucket
    assert "\x1b" not in found.stdout + found.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--rows=5"], 2, "rows is 5; expected 1 to 4"),
        (["--warm_up=nan"], 2, "warm_up is nan"),
        (["--seconds=inf", "--rate=5"], 2, "seconds is inf; expected more than 0"),
        (["--rate=1", "--concurrency=2"], 2, "an open loop has no number of callers"),
        (["--rate=0"], 2, "rate 0.0; expected"),
        (["--seconds=0"], 2, "seconds is 0.0"),
        (["--concurrency=0"], 2, "concurrency is 0"),
        (["gone.png"], 1, "No such file"),
        (["a.png", "--send=pixels"], 2, "pixels are to be sent"),
        (["--model=nope"], 1, "Servable not found"),
    ],
)
def test_an_error_is_one_line_and_a_code(call, capsys, arguments, code, message):
    assert call(*arguments) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_texts_need_a_text_tower(call, capsys):
    with serve(StandIn(text=False)) as images:
        assert call("--send=texts", address=images.address) == 2
    assert "no text tower" in capsys.readouterr().err


def test_no_server(call, capsys):
    assert call("--retries=0", address=closed_address()) == 1
    assert "start a model server there" in capsys.readouterr().err


def test_percentiles_are_latencies_that_were_measured():
    found = latency.summary(np.arange(1, 1000) / 1e3)
    assert found == {
        "mean": 500.0, "min": 1.0, "p50": 500.0, "p75": 750.0, "p90": 900.0, "p95": 950.0, "p99": 990.0,
        "p99.9": 999.0, "max": 999.0,
    }  # fmt: skip
    assert set(latency.summary(np.zeros(0)).values()) == {None}


@pytest.mark.parametrize(
    "latencies", [[0.002], [0.002] * 5, [0.0, 0.5], [0.001, 0.00101], list(np.geomspace(1e-4, 10, 999))]
)
def test_every_latency_is_in_a_bucket(latencies: list[float]):
    buckets = latency.histogram(np.array(latencies))
    assert sum(bucket.count for bucket in buckets) == len(latencies)
    assert all(one.high_ms == other.low_ms for one, other in itertools.pairwise(buckets))
    assert buckets[-1].high_ms == pytest.approx(1e3 * max(latencies), abs=1e-3)
    assert len(buckets) <= 16


def test_nothing_has_no_histogram():
    assert latency.histogram(np.zeros(0)) == []
