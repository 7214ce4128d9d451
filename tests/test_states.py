import threading
from concurrent import futures

import pytest
import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus as Status

from serving.states import States


@pytest.fixture
def states():
    return States(threading.Event())


def test_the_last_state_of_each_version_is_shown_the_highest_first(states):
    states.publish("b", 1, Status.AVAILABLE)
    states.publish("a", 1, Status.AVAILABLE)
    states.publish("a", 3, Status.END, tf.errors.NotFoundError(None, None, "no such file"))
    states.publish("a", 1, Status.UNLOADING)
    shown = [(s.version, s.state, s.status.error_code, s.status.error_message) for s in states.of("a")]
    assert shown == [(3, Status.END, 5, "no such file"), (1, Status.UNLOADING, 0, "")]
    assert states.of("a")[1].HasField("status")
    assert states.names() == ["a", "b"]
    assert (states.available("b", 1), states.available("a", 1), states.available("c", 1)) == (True, False, False)


def test_a_wait_ends_with_a_version_of_each_model_and_names_those_that_failed(states):
    with futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(states.wait, ["a", "b"], states.now())
        states.publish("a", 2, Status.LOADING)
        states.publish("a", 1, Status.AVAILABLE)
        states.publish("b", 4, Status.START)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        states.publish("b", 4, Status.END, tf.errors.DataLossError(None, None, "cut"))
        assert waiting.result(timeout=60) == {("b", 4): "DATA_LOSS: cut"}


def test_a_wait_looks_at_what_came_after_its_beginning_and_a_version_that_is_unloaded_is_no_failure(states):
    states.publish("a", 1, Status.AVAILABLE)
    with futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(states.wait, ["a"], states.now())
        states.publish("a", 1, Status.END)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        states.publish("a", 1, Status.AVAILABLE)
        assert waiting.result(timeout=60) == {}


def test_a_server_that_goes_down_ends_a_wait():
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(tf.errors.UnavailableError):
        States(stop).wait(["a"], 0)
