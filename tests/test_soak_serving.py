"""What a soak counts and how it judges; `make soak` is the soak."""

import json
import threading
import time

import pytest

from benchmarks.crowd import Crowd, Gate
from benchmarks.raw_client import LOST, Reply
from benchmarks.server_process import faults
from benchmarks.soak_serving import Settings, problems
from benchmarks.tally import Disturbance, Sent, Tally
from benchmarks.traffic import Ask
from tests.documented import documented, fields
from vit22b import wire_pb2

PREDICT = Ask("predict", "/Predict", b"", wrong=lambda content: "" if content == b"right" else "wrong")
REFUSED = Ask("no image", "/Predict", b"", code="INVALID_ARGUMENT")
REST = Ask("REST predict", "", b"", code="200")


def sent(ask, tally, **changes):
    marks = {"overload": tally.overload.mark(), "switching": tally.switching.mark()}
    return Sent(ask, began=10.0, **{**marks, **changes})


def count(ask, reply, **changes):
    tally = Tally()
    tally.record(sent(ask, tally, **changes), reply)
    return tally


def test_a_right_answer_counts_as_answered():
    tally = count(PREDICT, Reply("OK", b"right"))
    assert (tally.sent, tally.answered, tally.wrong, tally.lost, tally.details) == (1, 1, 0, 0, [])


@pytest.mark.parametrize(
    ("ask", "content", "told"),
    [(PREDICT, b"other", "predict: wrong"), (REFUSED, b"right", "no image: OK, expected INVALID_ARGUMENT")],
)
def test_a_wrong_answer_is_told_from_a_failure(ask, content, told):
    tally = count(ask, Reply("OK", content))
    assert (tally.answered, tally.wrong, tally.details) == (0, 1, [told])


@pytest.mark.parametrize(
    ("ask", "content", "told"),
    [
        (Ask("rest", "", b"", "200", lambda content: json.loads(content)["outputs"]), b"{", "JSONDecodeError"),
        (Ask("rest", "", b"", "200", lambda content: json.loads(content)["outputs"]), b"{}", "KeyError: 'outputs'"),
        (Ask("rest", "", b"", "200", lambda content: json.loads(content)["outputs"]), b"[]", "TypeError"),
        (Ask("grpc", "/Predict", b"", wrong=wire_pb2.PredictResponse.FromString), b"\xff", "DecodeError"),
    ],
)
def test_an_answer_that_is_malformed_is_wrong(ask, content, told):
    tally = count(ask, Reply(ask.code, content))
    assert (tally.sent, tally.wrong) == (1, 1)
    assert tally.details[0].startswith(f"{ask.name}: the answer is malformed: {told}")


def test_a_client_that_ends_by_a_defect_is_told(caplog):
    crowd = Crowd("localhost:1", "localhost:1", [PREDICT], Tally(), seed=0)  # it has no REST request to choose from
    crowd.start(grpc=0, rest=1)
    deadline = time.monotonic() + 60
    while not any(defect.startswith("client-0: IndexError: ") for defect in crowd.defects):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    crowd.stop()
    assert "A client has ended" in caplog.text


def test_an_answer_of_another_version_than_was_asked_for_is_wrong():
    response = wire_pb2.PredictResponse()
    response.model_spec.version.value = 3
    ask = Ask("predict", "/Predict", b"", spec=True)
    assert count(ask, Reply("OK", response.SerializeToString()), version=3).answered == 1
    assert count(ask, Reply("OK", response.SerializeToString()), version=2).wrong == 1


@pytest.mark.parametrize(
    ("ask", "reply", "expected"),
    [
        (REFUSED, Reply("INVALID_ARGUMENT"), True),
        (PREDICT, Reply("INVALID_ARGUMENT"), False),
        (PREDICT, Reply("INTERNAL"), False),
        (PREDICT, Reply("RESOURCE_EXHAUSTED"), False),
        (PREDICT, Reply("NOT_FOUND"), False),
        (REST, Reply("500"), False),
        (REST, Reply("429", headers={"retry-after": "1"}), False),
    ],
)
def test_a_failure_counts_as_expected_where_the_request_asks_for_it(ask, reply, expected):
    tally = count(ask, reply)
    assert tally.failed == {("REST" if ask is REST else "GRPC", reply.code, expected): 1}
    assert bool(tally.details) != expected


def test_an_overload_excuses_a_refusal_of_the_same_time():
    tally = Tally()
    before = sent(PREDICT, tally)
    with tally.overload():
        within = sent(REST, tally)
    for asked, reply in (
        (before, Reply("RESOURCE_EXHAUSTED")),
        (within, Reply("429", headers={"retry-after": "1"})),
        (within, Reply("429")),  # which does not say when to come again
        (sent(PREDICT, tally), Reply("RESOURCE_EXHAUSTED")),
    ):
        tally.record(asked, reply)
    grpc, rest = "RESOURCE_EXHAUSTED", "429"
    assert tally.failed == {
        ("GRPC", grpc, True): 1,
        ("GRPC", grpc, False): 1,
        ("REST", rest, True): 1,
        ("REST", rest, False): 1,
    }


def test_a_change_of_versions_excuses_one_that_is_gone_if_it_was_asked_for():
    tally = Tally()
    with tally.switching():
        asked = sent(PREDICT, tally, version=1)
    tally.record(asked, Reply("NOT_FOUND"))
    tally.record(sent(PREDICT, tally, version=1), Reply("NOT_FOUND"))
    assert tally.failed == {("GRPC", "NOT_FOUND", True): 1, ("GRPC", "NOT_FOUND", False): 1}


def test_a_deadline_that_was_meant_to_pass_is_none_of_the_servers_failures():
    assert count(PREDICT, Reply("DEADLINE_EXCEEDED"), hasty=True).abandoned == 1
    assert count(PREDICT, Reply("DEADLINE_EXCEEDED")).failed == {("GRPC", "DEADLINE_EXCEEDED", False): 1}


def test_what_came_too_late_is_told_from_what_is_lost():
    tally = Tally()
    tally.record(sent(PREDICT, tally), Reply(LOST, text="gone"))
    tally.terminated = 10.1
    tally.record(sent(PREDICT, tally), Reply(LOST, text="gone"))
    tally.terminated = 11.0
    tally.record(sent(PREDICT, tally), Reply(LOST, text="gone"))
    assert (tally.lost, tally.refused_at_the_end) == (2, 1)


@pytest.mark.parametrize(
    ("terminated", "at_work", "excused"), [(None, False, 0), (11.5, False, 1), (11.5, True, 0), (12.5, False, 0)]
)
def test_a_call_that_no_thread_has_taken_ends_with_the_port(terminated, at_work, excused):
    tally = Tally()
    tally.terminated = terminated
    tally.record(sent(PREDICT, tally, at_work=at_work), Reply("CANCELLED"))
    assert tally.refused_at_the_end == excused
    assert len(tally.details) == 1 - excused


def test_a_disturbance_lasts_until_its_end():
    disturbance = Disturbance()
    before = disturbance.mark()
    assert not disturbance.since(before)
    with disturbance():
        within = disturbance.mark()
    after = disturbance.mark()
    assert disturbance.since(before)
    assert disturbance.since(within)
    assert not disturbance.since(after)


def test_a_gate_closes_when_nobody_is_within():
    gate, log = Gate(), []
    entered, leave = threading.Event(), threading.Event()

    def pass_through():
        with gate:
            entered.set()
            leave.wait()
            log.append("left")

    def close():
        with gate.closed():
            log.append("closed")

    first, closer = threading.Thread(target=pass_through), threading.Thread(target=close)
    first.start()
    entered.wait()
    closer.start()
    leave.set()
    first.join()
    closer.join()
    assert log == ["left", "closed"]
    with gate:
        pass


REPORT = {
    "seconds": 1.0,
    "requests_per_second": 1.0,
    "sent": 3,
    "answered": 1,
    "failed": [{"api": "GRPC", "code": "INVALID_ARGUMENT", "expected": True, "times": 2}],
    "abandoned": 0,
    "refused_at_the_end": 0,
    "wrong_answers": 0,
    "lost": 0,
    "details": [],
    "clients_that_died": [],
    "slowest_seconds": {},
    "versions_switched": 1,
    "broken_versions_refused": 1,
    "rss_bytes_start": 100,
    "descriptors_start": 5,
    "threads_start": 7,
    "threads_of_pools_start": 20,
    "rss_bytes_end": 105,
    "descriptors_end": 5,
    "threads_end": 7,
    "threads_of_pools_end": 25,
    "rss_growth": 0.05,
    "under_way_at_sigterm": 4,
    "exit_code": 0,
    "server_faults": [],
}


def test_a_good_report_has_no_problems_and_its_fields_are_documented():
    assert problems(REPORT) == []
    assert documented("build/soak/report.json") == fields({**REPORT, "problems": []})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"wrong_answers": 2}, "2 wrong answers; expected none"),
        ({"lost": 1}, "1 lost; expected none"),
        (
            {"failed": [{"api": "REST", "code": "500", "expected": False, "times": 3}]},
            "3 requests over REST failed with 500, which was not expected",
        ),
        ({"rss_growth": 0.051}, "the memory has grown by 5.1%; expected at most 5%"),
        ({"descriptors_end": 6}, "descriptors have grown from 5 to 6"),
        ({"clients_that_died": ["client-3: KeyError: 1"]}, "client-3: KeyError: 1"),
        ({"threads_end": 8}, "threads have grown from 7 to 8"),
        ({"threads_of_pools_end": 26}, "threads_of_pools have grown from 20 to 26"),
        ({"exit_code": -15}, "the server ended with code -15; expected 0"),
        ({"server_faults": ["Traceback"]}, "the server's log: Traceback"),
        ({"versions_switched": 0}, "no version took the place of another"),
    ],
)
def test_what_is_not_as_it_should_be_is_a_line(change, problem):
    assert problems({**REPORT, **change}) == [problem]


def test_a_soak_of_no_time_is_refused():
    with pytest.raises(ValueError, match="--seconds 0 --grpc 6 --rest 4; expected more than 0 of each"):
        Settings(seconds=0)


def test_a_fault_of_the_server_is_found_in_its_log():
    lines = [
        "2026-11-26 07:45:05.000: I lifecycle.py:187] Loading servable version {name: vit version: 1}",
        "2026-11-26 07:45:05.000: E loading.py:52] Loading servable: {name: vit version: 3} failed: NOT_FOUND",
        "2026-11-26 07:45:05.000: E _server.py:636] Exception calling application: no",
        "Traceback (most recent call last):",
        "2026-11-26 07:45:05.000: E rest_http.py:88] GET /: a defect of the server",
        "2026-11-26 07:45:05.000: C lifecycle.py:245] something",
        "F0000 00:00:1.0 1 server.cc:128] Check failed: ok",
    ]
    assert faults("\n".join(lines)) == lines[2:]
