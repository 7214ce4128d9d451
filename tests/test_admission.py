import threading

import pytest
import tensorflow as tf

from serving.admission import Admission


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


def test_what_is_in_waits_until_work_on_it_begins():
    admission = Admission()
    for _ in range(3):
        admission.enter()
    admission.begin()
    assert (admission.running, admission.waiting) == (1, 2)
    admission.done()
    admission.leave()
    assert (admission.running, admission.waiting) == (0, 2)


def test_many_threads_never_exceed_the_bound_and_leave_nothing_behind():
    admission, outcomes, together = Admission(max_pending=3), [], threading.Barrier(8, timeout=30)

    def work():
        for _ in range(50):
            together.wait()
            try:
                admission.enter()
            except tf.errors.ResourceExhaustedError:
                outcomes.append("refused")
                together.wait()
            else:
                admission.begin()
                outcomes.append("in")
                together.wait()  # all have asked, none has left
                admission.done()
                admission.leave()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (outcomes.count("in"), outcomes.count("refused")) == (150, 250)
    assert (admission.running, admission.waiting) == (0, 0)


def test_a_bound_that_lets_nothing_through_is_refused():
    with pytest.raises(ValueError, match="--max_pending is 0"):
        Admission(max_pending=0)
