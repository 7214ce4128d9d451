import contextlib
import logging
import re
import threading
import time
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving.lifecycle import Lifecycle, Retries
from serving.servable import Servable, ServableOptions
from serving.warmup import GoldenError
from tests.lifecycles import aspire
from tests.small_models import plus, put
from tests.waiting import until


def load(name, version, path):
    return Servable.load(name, version, path, ServableOptions())


@pytest.fixture
def lifecycle():
    made = Lifecycle(load, Retries(count=0), threading.Event())
    yield made
    aspire(made, "p", {})


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
        return servable.predict(request).outputs["y"].float_val[0]


def eventually_in(seconds, condition):
    """Whether it comes to be so within a short time; for what has to stay away."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@contextlib.contextmanager
def managed(lifecycle, stop):
    """A thread that manages, as the server has one."""
    with futures.ThreadPoolExecutor(1) as pool:
        managing = pool.submit(lifecycle.manage)
        try:
            yield
        finally:
            stop.set()
        managing.result()


def test_the_new_version_takes_over_and_the_old_one_ends(lifecycle):
    aspire(lifecycle, "p", {1: plus(1)})
    assert (states(lifecycle), predict(lifecycle)) == ([(1, "AVAILABLE")], 1)
    aspire(lifecycle, "p", {2: plus(2)})
    assert (states(lifecycle), predict(lifecycle)) == ([(2, "AVAILABLE"), (1, "END")], 2)
    with pytest.raises(tf.errors.NotFoundError) as gone:
        predict(lifecycle, 1)
    assert gone.value.message == "Servable not found for request: Specific(p, 1)"


def test_it_goes_back_when_the_new_version_vanishes_and_ends_when_all_do(lifecycle):
    for versions in ({1: plus(1)}, {2: plus(2)}, {1: plus(1)}):
        aspire(lifecycle, "p", versions)
    assert (states(lifecycle), predict(lifecycle)) == ([(2, "END"), (1, "AVAILABLE")], 1)
    aspire(lifecycle, "p", {})
    assert states(lifecycle) == [(2, "END"), (1, "END")]
    with pytest.raises(tf.errors.NotFoundError) as gone:
        predict(lifecycle)
    assert gone.value.message == "Servable not found for request: Latest(p)"


def test_a_version_that_fails_keeps_the_old_one_and_is_never_tried_again(lifecycle, tmp_path):
    aspire(lifecycle, "p", {1: plus(1)})
    (tmp_path / "2").mkdir()
    aspire(lifecycle, "p", {2: tmp_path / "2"})
    assert (states(lifecycle), predict(lifecycle)) == ([(2, "END"), (1, "AVAILABLE")], 1)
    (tmp_path / "2").rmdir()
    good = put(plus(2), tmp_path, 2)
    aspire(lifecycle, "p", {2: good})
    failed = lifecycle.status("p")[0].status
    assert failed.error_code == tf.errors.NOT_FOUND
    assert failed.error_message.endswith(f"Specified file path: {good}")
    aspire(lifecycle, "p", {3: plus(3)})
    assert states(lifecycle) == [(3, "AVAILABLE"), (2, "END"), (1, "END")]


def test_a_byte_that_changed_is_told_with_the_versions_path_and_the_old_version_serves_on(lifecycle, tmp_path, caplog):
    aspire(lifecycle, "p", {1: plus(1)})
    broken = put(plus(2), tmp_path, 2)
    (data,) = (broken / "variables").glob("*.data-*")
    content = data.read_bytes()
    data.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    aspire(lifecycle, "p", {2: broken})
    assert (states(lifecycle), predict(lifecycle)) == ([(2, "END"), (1, "AVAILABLE")], 1)
    assert lifecycle.status("p")[0].status.error_code == tf.errors.DATA_LOSS
    assert re.search(f"Cannot restore the variables of {broken}: .*Checksum does not match", caplog.text)
    assert "Loading servable: {name: p version: 2} failed: DATA_LOSS: " in caplog.text


def test_a_load_is_retried_while_the_version_is_loading():
    attempts = []

    def flaky(name, version, path):
        attempts.append(states(lifecycle))
        if len(attempts) < 3:
            raise tf.errors.UnavailableError(None, None, "not yet")
        return load(name, version, path)

    lifecycle = Lifecycle(flaky, Retries(count=2, interval=0.01), threading.Event())
    aspire(lifecycle, "p", {1: plus(1)})
    assert attempts == [[(1, "LOADING")]] * 3
    assert states(lifecycle) == [(1, "AVAILABLE")]
    aspire(lifecycle, "p", {})


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
    aspire(lifecycle, "p", {1: plus(1)})
    aspire(lifecycle, "p", {2: plus(2)})
    assert (states(lifecycle), predict(lifecycle)) == ([(2, "END"), (1, "AVAILABLE")], 1)
    failed = lifecycle.status("p")[0].status
    assert (failed.error_code, failed.error_message) == (code, text)
    assert ("Traceback" in caplog.text) == (code == tf.errors.INTERNAL)
    aspire(lifecycle, "p", {3: plus(3)})
    assert predict(lifecycle) == 3
    aspire(lifecycle, "p", {})


def test_a_load_that_would_fail_again_is_not_retried():
    attempts = []

    def other_answers(_name, version, _path):
        attempts.append(version)
        raise GoldenError("another answer")

    retries = Retries(count=5, interval=600, vain=(GoldenError,))
    lifecycle = Lifecycle(other_answers, retries, threading.Event())
    aspire(lifecycle, "p", {1: plus(1)})
    assert attempts == [1]
    assert lifecycle.status("p")[0].status.error_code == tf.errors.DATA_LOSS


def test_a_server_that_goes_down_waits_for_no_retry(tmp_path):
    stop = threading.Event()
    lifecycle = Lifecycle(load, Retries(count=5, interval=600), stop)
    threading.Timer(0.1, stop.set).start()
    aspire(lifecycle, "p", {1: tmp_path})
    assert states(lifecycle) == [(1, "END")]


def test_a_request_under_way_keeps_its_version_until_it_ends(lifecycle, tmp_path):
    aspire(lifecycle, "p", {1: plus(1)})
    started = threading.Event()
    with futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(wait_for_gate, lifecycle, tmp_path / "gate", started)
        started.wait()
        swap = pool.submit(aspire, lifecycle, "p", {2: plus(2)})
        until(lambda: predict(lifecycle) == 2)
        # What the real server says meanwhile: the new version answers, the old one still takes requests by number.
        assert states(lifecycle) == [(2, "LOADING"), (1, "AVAILABLE")]
        assert predict(lifecycle, 1) == 1
        assert not swap.done()
        (tmp_path / "gate").touch()
        assert slow.result() == 1
        swap.result()
    assert states(lifecycle) == [(2, "AVAILABLE"), (1, "END")]


def test_the_log_tells_a_swap_in_the_real_servers_words(lifecycle, caplog):
    caplog.set_level(logging.INFO, "serving.lifecycle")
    aspire(lifecycle, "p", {1: plus(1)})
    caplog.clear()
    aspire(lifecycle, "p", {2: plus(2)})
    old, new = "{name: p version: 1}", "{name: p version: 2}"
    assert [record.getMessage() for record in caplog.records] == [
        f"Loading servable version {new}",
        f"Successfully loaded servable version {new}",
        f"Quiescing servable version {old}",
        f"Done quiescing servable version {old}",
        f"Unloading just-loaded servable version {old}",
        f"Done unloading servable version {old}",
    ]


@pytest.mark.slow
def test_a_version_that_failed_is_tried_again_after_the_model_has_served_without_it(tmp_path):
    lifecycle = Lifecycle(load, Retries(count=0), threading.Event())
    (tmp_path / "2").mkdir()
    aspire(lifecycle, "p", {1: plus(1), 2: tmp_path / "2"})
    assert states(lifecycle) == [(2, "END"), (1, "AVAILABLE")]
    aspire(lifecycle, "p", {1: plus(1)})
    aspire(lifecycle, "p", {1: plus(1), 2: plus(2)})
    assert states(lifecycle) == [(2, "AVAILABLE"), (1, "AVAILABLE")]
    aspire(lifecycle, "p", {})


def test_with_several_wanted_the_highest_comes_first_and_every_one_answers(lifecycle):
    loaded = []
    lifecycle._load = lambda *what: loaded.append(what[1]) or load(*what)
    aspire(lifecycle, "p", {1: plus(1), 3: plus(3), 2: plus(2)})
    assert loaded == [3, 2, 1]
    assert [predict(lifecycle, number) for number in (None, 1, 2, 3)] == [3, 1, 2, 3]


def test_a_label_leads_to_its_version(lifecycle):
    aspire(lifecycle, "p", {1: plus(1), 2: plus(2)})
    lifecycle.labels.set({"p": {"stable": 1, "gone": 9}})
    with lifecycle.lease("p", label="stable") as servable:
        assert servable.version == 1
    for label, text in (
        ("gone", "Servable not found for request: Specific(p, 9)"),
        ("nope", "Unrecognized servable version label: nope"),
    ):
        with pytest.raises(tf.errors.OpError) as refused, lifecycle.lease("p", label=label):
            pass
        assert refused.value.message == text


def test_one_models_long_load_holds_up_no_other_with_threads_and_all_without():
    """As the real server with --num_load_threads=2 and 0; the gate is a load that lasts."""
    gate, stop = threading.Event(), threading.Event()

    def load_late(name, version, path):
        if name == "late":
            gate.wait(60)
        return load(name, version, path)

    lifecycle = Lifecycle(load_late, Retries(count=0), stop)
    lifecycle.load_with(2)
    with managed(lifecycle, stop):
        lifecycle.want("late", {1: plus(1)})
        lifecycle.want("p", {1: plus(1)})
        until(lambda: states(lifecycle) == [(1, "AVAILABLE")])
        assert [status.state for status in lifecycle.status("late")] == [ModelVersionStatus.LOADING]
        gate.set()
        lifecycle.load_with(0)  # waits for the loads that have begun
        assert [status.state for status in lifecycle.status("late")] == [ModelVersionStatus.AVAILABLE]
        gate.clear()
        lifecycle.want("late", {2: plus(2)})
        until(lambda: lifecycle.status("late")[0].state == ModelVersionStatus.LOADING)
        lifecycle.want("p", {2: plus(2)})
        lifecycle.want("late", {3: plus(3)})
        assert not eventually_in(0.3, lambda: len(states(lifecycle)) > 1)
        gate.set()
        until(lambda: states(lifecycle) == [(2, "AVAILABLE"), (1, "END")])


@pytest.mark.slow
def test_a_retry_ends_when_its_version_is_wanted_no_more(tmp_path):
    stop = threading.Event()
    lifecycle = Lifecycle(load, Retries(count=5, interval=600), stop)
    lifecycle.load_with(1)
    with managed(lifecycle, stop):
        lifecycle.want("p", {1: tmp_path})
        until(lambda: states(lifecycle) == [(1, "LOADING")])
        lifecycle.want("p", {2: plus(2)})
        until(lambda: states(lifecycle) == [(2, "AVAILABLE"), (1, "END")])


def test_a_model_that_was_to_go_goes_though_it_is_wanted_again(lifecycle):
    aspire(lifecycle, "p", {1: plus(1)})
    since = lifecycle.states.now()
    lifecycle.want("p", {})
    aspire(lifecycle, "p", {1: plus(1)})
    assert lifecycle.states.wait(["p"], since) == {}
    assert (states(lifecycle), predict(lifecycle)) == ([(1, "AVAILABLE")], 1)


def test_swapping_loses_no_request(lifecycle):
    aspire(lifecycle, "p", {1: plus(1)})
    stop, answers = threading.Event(), []

    def ask():
        while not stop.is_set():
            answers.append(predict(lifecycle))

    with futures.ThreadPoolExecutor() as pool:
        askers = [pool.submit(ask) for _ in range(3)]
        for version in (2, 3, 1, 2):
            aspire(lifecycle, "p", {version: plus(version)})
        stop.set()
        for asker in askers:
            asker.result()
    assert {1, 2, 3} <= set(answers)


def test_an_unknown_model_has_no_versions(lifecycle):
    assert lifecycle.status("nope") == []
    assert lifecycle.names() == []
