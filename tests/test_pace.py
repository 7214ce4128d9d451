import itertools
import threading
import time

import numpy as np
import pytest

from clients.pace import LOST, NOT_SENT, arrival_times, closed_loop, open_loop
from tests.waiting import until


def test_a_closed_loop_counts_what_was_answered_and_what_was_not():
    calls = itertools.count()

    def answer():
        time.sleep(0.001)
        return "" if next(calls) % 2 == 0 else "UNAVAILABLE"

    found = closed_loop([answer], seconds=0.05)
    assert found.failed == found.failures["UNAVAILABLE"] >= 1
    assert abs(len(found.latencies) - found.failed) <= 1
    assert 0 < found.rate <= len(found.latencies) / 0.05


def test_callers_of_a_closed_loop_call_at_once():
    together = threading.Barrier(3)
    first = [True] * 3

    def caller(number):
        def call():
            if first[number]:  # how often each calls after that is its own affair
                first[number] = False
                together.wait(60)
            return ""

        return call

    found = closed_loop([caller(number) for number in range(3)], seconds=0.01)
    assert found.failed == 0
    assert len(found.latencies) >= 3


def test_what_is_sent_to_warm_up_is_not_counted():
    calls = []

    def answer():
        calls.append(time.perf_counter())
        return "" if len(calls) > 1 else "COLD"

    found = closed_loop([answer], seconds=0.02, warm_up=0.05)
    assert found.failed == 0
    assert 1 <= len(found.latencies) < len(calls)


def test_a_closed_loop_stops_when_it_is_told_to():
    stop = threading.Event()
    calls = []

    def answer():
        calls.append(0)
        stop.set()
        return ""

    assert len(closed_loop([answer], seconds=3600.0, stop=stop).latencies) == len(calls) == 1


def test_an_open_loop_counts_from_when_a_request_was_due():
    """The first one holds up the sender: those that are due meanwhile have waited too."""
    sent = []

    def send(done):
        if not sent:
            time.sleep(0.3)
        sent.append(0)
        done("")

    found = open_loop(send, arrival_times(rate=100.0, seconds=0.2))
    assert len(sent) == len(found.latencies) == len(found.lateness) == 20
    assert sum(latency > 0.1 for latency in found.latencies) >= 10
    assert sum(late > 0.1 for late in found.lateness) >= 10


def test_an_open_loop_does_not_wait_for_answers():
    waiting = []

    def send(done):
        waiting.append(done)
        if len(waiting) == 10:  # all are under way at once
            for each in waiting:
                each("")

    assert len(open_loop(send, arrival_times(rate=1000.0, seconds=0.01)).latencies) == 10


def test_an_open_loop_counts_failures():
    found = open_loop(lambda done: done("UNAVAILABLE"), arrival_times(rate=1000.0, seconds=0.01))
    assert (found.failures, len(found.latencies), found.rate) == ({"UNAVAILABLE": 10}, 0, 0.0)


def test_what_is_due_beyond_the_most_under_way_has_failed():
    waiting = []
    threading.Thread(target=lambda: (until(lambda: len(waiting) == 2), [done("") for done in waiting])).start()
    found = open_loop(waiting.append, np.zeros(5), most=2)
    assert found.failed == found.failures[NOT_SENT]
    assert len(found.latencies) == len(waiting)
    assert found.failed + len(waiting) == 5


def test_what_is_never_answered_has_failed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("clients.pace._PATIENCE", 0.01)
    late = []
    found = open_loop(late.append, np.zeros(2))
    assert (found.failures, len(found.latencies)) == ({LOST: 2}, 0)
    late[0]("")  # whoever answers now disturbs nothing
    assert len(found.latencies) == 0


def test_an_open_loop_warms_up_and_stops():
    stop = threading.Event()
    sent = []

    def send(done):
        sent.append(0)
        done("")
        if len(sent) == 3:
            stop.set()

    found = open_loop(send, np.array([0.0, 0.01, 0.02, 3600.0]), warm_up=0.005, stop=stop)
    assert (len(sent), len(found.latencies), len(found.lateness)) == (3, 2, 2)


def test_arrivals():
    constant = arrival_times(10.0, 2.0, "constant")
    np.testing.assert_allclose(constant, np.arange(20) / 10)
    poisson = arrival_times(1000.0, 10.0, "poisson", seed=1)
    gaps = np.diff(poisson)
    assert len(poisson) == 10_000
    assert gaps.mean() == pytest.approx(1e-3, rel=0.05)
    assert gaps.std() == pytest.approx(1e-3, rel=0.05)  # as of an exponential distribution, whose mean it is
    assert len(arrival_times(0.1, 1.0)) == 1
