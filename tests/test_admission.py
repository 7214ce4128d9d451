import random
import threading
import time

import pytest
import tensorflow as tf

from serving.admission import Admission
from serving.call import Call

PATIENCE = 30  # seconds; only a failure takes so long


def call(**fields):
    return Call("Predict", "GRPC", **fields)


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_beyond_the_bound_a_request_is_refused_and_a_place_that_is_given_back_is_free():
    admission = Admission(max_pending=2)
    admission.enter()
    admission.enter()
    with pytest.raises(
        tf.errors.ResourceExhaustedError, match=r"2 requests are under way or waiting \(--max_pending\)"
    ):
        admission.enter()
    admission.leave()
    admission.enter()


def test_without_a_bound_of_their_own_all_that_are_in_run():
    admission = Admission(max_pending=100)
    for _ in range(100):
        admission.enter()
        admission.wait(call())
    assert (admission.running, admission.waiting) == (100, 0)


def test_turns_come_in_the_order_of_arrival():
    admission, order, threads = Admission(max_running=1), [], []
    admission.enter()
    admission.wait(call())

    def pass_through(number):
        admission.wait(call())
        order.append(number)
        admission.done()
        admission.leave()

    for number in range(20):
        admission.enter()
        threads.append(threading.Thread(target=pass_through, args=(number,)))
        threads[-1].start()
        until(lambda count=number + 1: len(admission._line) == count)
    assert (admission.running, admission.waiting, order) == (1, 20, [])
    admission.done()
    for thread in threads:
        thread.join(PATIENCE)
    assert order == list(range(20))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (lambda: {"deadline": time.monotonic() + 0.05}, tf.errors.DeadlineExceededError),
        (lambda: {"deadline": time.monotonic() - 1}, tf.errors.DeadlineExceededError),
        (lambda: {"gone": iter([False, True, True]).__next__}, tf.errors.CancelledError),
    ],
)
def test_who_waits_in_vain_leaves_the_line_and_harms_nobody(fields, error):
    admission = Admission(max_running=1)
    admission.enter()
    admission.wait(call())
    admission.enter()
    with pytest.raises(error):
        admission.wait(call(**fields()))
    admission.leave()
    assert (admission.running, admission.waiting, len(admission._line)) == (1, 0, 0)
    admission.done()
    admission.leave()
    admission.enter()
    admission.wait(call())  # does not block
    assert admission.running == 1


def test_a_caller_that_has_gone_gets_no_turn_even_if_there_is_room():
    admission = Admission()
    admission.enter()
    with pytest.raises(tf.errors.CancelledError):
        admission.wait(call(gone=lambda: True))
    assert admission.running == 0


def test_many_threads_never_exceed_the_bounds_and_leave_nothing_behind():
    admission, running, most = Admission(max_pending=12, max_running=3), [], []
    outcomes = {"done": 0, "refused": 0, "late": 0}
    lock = threading.Lock()

    def one(chance):
        try:
            admission.enter()
        except tf.errors.ResourceExhaustedError:
            return "refused"
        try:
            admission.wait(call(deadline=time.monotonic() + chance.choice([0.0005, 0.002, PATIENCE])))
        except tf.errors.DeadlineExceededError:
            return "late"
        else:
            running.append(1)
            most.append((len(running), admission.running, admission.running + admission.waiting))
            time.sleep(chance.random() / 1000)
            running.pop()
            admission.done()
            return "done"
        finally:
            admission.leave()

    def work(seed):
        chance = random.Random(seed)
        for _ in range(100):
            outcome = one(chance)
            with lock:
                outcomes[outcome] += 1

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (admission.running, admission.waiting, len(admission._line)) == (0, 0, 0)
    assert max(count for count, _, _ in most) <= 3
    assert max(count for _, count, _ in most) <= 3
    assert all(outcomes.values()), outcomes
    assert sum(outcomes.values()) == 1600


@pytest.mark.parametrize(("bounds", "text"), [({"max_pending": 0}, "--max_pending is 0"), ({"max_running": -1}, "-1")])
def test_a_bound_that_lets_nothing_through_is_refused(bounds, text):
    with pytest.raises(ValueError, match=text):
        Admission(**bounds)
