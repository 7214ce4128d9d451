import threading
import time
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from serving.lifecycle import Lifecycle, Retries
from serving.servable import Options, Servable
from serving.warmup import GoldenError
from tests.small_models import plus, put


def load(name, version, path):
    return Servable.load(name, version, path, Options())


@pytest.fixture
def lifecycle():
    made = Lifecycle(load, Retries(count=0), threading.Event())
    yield made
    made.aspire("p", {})


def states(lifecycle):
    return [(status.version, type(status).State.Name(status.state)) for status in lifecycle.status("p")]


def predict(lifecycle, version=None):
    request = predict_pb2.PredictRequest()
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.zeros(1, np.float32)))
    with lifecycle.lease("p", version) as servable:
        return servable.predict(request).outputs["y"].float_val[0]


def wait_for_gate(lifecycle, gate, started):
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "wait"
    request.inputs["gate"].CopyFrom(tf.make_tensor_proto(str(gate)))
    with lifecycle.lease("p") as servable:
        started.set()
        return servable.predict(request, timeout=60).outputs["y"].float_val[0]


def eventually(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_new_version_takes_over_and_the_old_one_ends(lifecycle):
    lifecycle.aspire("p", {1: plus(1)})
    assert (states(lifecycle), predict(lifecycle)) == ([(1, "AVAILABLE")], 1)
    lifecycle.aspire("p", {2: plus(2)})
    assert (states(lifecycle), predict(lifecycle)) == ([(2, "AVAILABLE"), (1, "END")], 2)
    with pytest.raises(tf.errors.NotFoundError) as gone:
        predict(lifecycle, 1)
    assert gone.value.message == "Servable not found for request: Specific(p, 1)"


def test_it_goes_back_when_the_new_version_vanishes_and_ends_when_all_do(lifecycle):
    for versions in ({1: plus(1)}, {2: plus(2)}, {1: plus(1)}):
        lifecycle.aspire("p", versions)
    assert (states(lifecycle), predict(lifecycle)) == ([(2, "END"), (1, "AVAILABLE")], 1)
    lifecycle.aspire("p", {})
    assert states(lifecycle) == [(2, "END"), (1, "END")]
    with pytest.raises(tf.errors.NotFoundError) as gone:
        predict(lifecycle)
    assert gone.value.message == "Servable not found for request: Latest(p)"


def test_a_version_that_fails_keeps_the_old_one_and_is_never_tried_again(lifecycle, tmp_path):
    lifecycle.aspire("p", {1: plus(1)})
    (tmp_path / "2").mkdir()
    lifecycle.aspire("p", {2: tmp_path / "2"})
    assert (states(lifecycle), predict(lifecycle)) == ([(2, "END"), (1, "AVAILABLE")], 1)
    (tmp_path / "2").rmdir()
    good = put(plus(2), tmp_path, 2)
    lifecycle.aspire("p", {2: good})
    failed = lifecycle.status("p")[0].status
    assert failed.error_code == tf.errors.NOT_FOUND
    assert failed.error_message.endswith(f"Specified file path: {good}")
    assert lifecycle.failures() == (
        "1 servable(s) did not become available: {{{name: p version: 2} due to error: NOT_FOUND: "
        f"{failed.error_message}}}, }}"
    )
    lifecycle.aspire("p", {3: plus(3)})
    assert states(lifecycle) == [(3, "AVAILABLE"), (2, "END"), (1, "END")]


def test_a_load_is_retried_while_the_version_is_loading():
    attempts = []

    def flaky(name, version, path):
        attempts.append(states(lifecycle))
        if len(attempts) < 3:
            raise tf.errors.UnavailableError(None, None, "not yet")
        return load(name, version, path)

    lifecycle = Lifecycle(flaky, Retries(count=2, interval=0.01), threading.Event())
    lifecycle.aspire("p", {1: plus(1)})
    assert attempts == [[(1, "LOADING")]] * 3
    assert states(lifecycle) == [(1, "AVAILABLE")]
    lifecycle.aspire("p", {})


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (PermissionError(13, "Permission denied", "/m/2"), tf.errors.PERMISSION_DENIED, "/m/2; Permission denied"),
        (FileNotFoundError(2, "No such file", "/m/2"), tf.errors.NOT_FOUND, "/m/2; No such file"),
        (OSError(5, "Input/output error"), tf.errors.UNKNOWN, "[Errno 5] Input/output error"),
        (RuntimeError("a defect"), tf.errors.INTERNAL, "RuntimeError: a defect"),
    ],
)
def test_whatever_a_load_raises_is_the_failure_of_its_version_alone(raised, code, text, caplog):
    def load_but_two(name, version, path):
        if version == 2:
            raise raised
        return load(name, version, path)

    lifecycle = Lifecycle(load_but_two, Retries(count=0), threading.Event())
    lifecycle.aspire("p", {1: plus(1)})
    lifecycle.aspire("p", {2: plus(2)})
    assert (states(lifecycle), predict(lifecycle)) == ([(2, "END"), (1, "AVAILABLE")], 1)
    failed = lifecycle.status("p")[0].status
    assert (failed.error_code, failed.error_message) == (code, text)
    assert ("Traceback" in caplog.text) == (code == tf.errors.INTERNAL)
    lifecycle.aspire("p", {3: plus(3)})
    assert predict(lifecycle) == 3
    lifecycle.aspire("p", {})


def test_a_load_that_would_fail_again_is_not_retried():
    attempts = []

    def other_answers(_name, version, _path):
        attempts.append(version)
        raise GoldenError("another answer")

    retries = Retries(count=5, interval=600, vain=(GoldenError,))
    lifecycle = Lifecycle(other_answers, retries, threading.Event())
    lifecycle.aspire("p", {1: plus(1)})
    assert attempts == [1]
    assert lifecycle.status("p")[0].status.error_code == tf.errors.DATA_LOSS


def test_a_server_that_goes_down_waits_for_no_retry(tmp_path):
    stop = threading.Event()
    lifecycle = Lifecycle(load, Retries(count=5, interval=600), stop)
    threading.Timer(0.1, stop.set).start()
    lifecycle.aspire("p", {1: tmp_path})
    assert states(lifecycle) == [(1, "END")]


def test_a_request_under_way_keeps_its_version_until_it_ends(lifecycle, tmp_path):
    lifecycle.aspire("p", {1: plus(1)})
    started = threading.Event()
    with futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(wait_for_gate, lifecycle, tmp_path / "gate", started)
        started.wait()
        swap = pool.submit(lifecycle.aspire, "p", {2: plus(2)})
        eventually(lambda: predict(lifecycle) == 2)
        # What the real server says meanwhile: the new version answers, the old one still takes requests by number.
        assert states(lifecycle) == [(2, "LOADING"), (1, "AVAILABLE")]
        assert predict(lifecycle, 1) == 1
        assert not swap.done()
        (tmp_path / "gate").touch()
        assert slow.result() == 1
        swap.result()
    assert states(lifecycle) == [(2, "AVAILABLE"), (1, "END")]


def test_swapping_loses_no_request(lifecycle):
    lifecycle.aspire("p", {1: plus(1)})
    stop, answers = threading.Event(), []

    def ask():
        while not stop.is_set():
            answers.append(predict(lifecycle))

    with futures.ThreadPoolExecutor() as pool:
        askers = [pool.submit(ask) for _ in range(3)]
        for version in (2, 3, 1, 2):
            lifecycle.aspire("p", {version: plus(version)})
        stop.set()
        for asker in askers:
            asker.result()
    assert {1, 2, 3} <= set(answers)


def test_an_unknown_model_has_no_versions(lifecycle):
    assert lifecycle.status("nope") == []
    assert lifecycle.failures() == ""
