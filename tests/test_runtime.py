import threading
import time
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from serving.runtime import Runtime
from tests.waiting import until


def runtime(build):
    with tf.Graph().as_default() as graph:
        build()
    return Runtime(graph.as_graph_def(), config_pb2.ConfigProto())


@pytest.fixture(scope="module")
def double():
    loaded = runtime(lambda: tf.multiply(tf.compat.v1.placeholder(tf.float32, [None], name="x"), 2.0, name="y"))
    yield loaded
    loaded.close()


def gate(name):
    """A graph that runs until the file exists, and answers 1."""
    matches = lambda *_: [tf.size(tf.io.matching_files(tf.constant(name)))]  # noqa: E731
    tf.identity(tf.while_loop(lambda found: tf.equal(found, 0), matches, [0])[0], name="y")


def test_a_run_answers_its_fetches_in_order(double):
    x = np.array([1, 2], np.float32)
    y, factor = double.run({"x:0": x}, ["y:0", "y/y:0"])
    assert (y.tolist(), factor.tolist()) == ([2, 4], 2)


@pytest.mark.parametrize(
    ("feed", "name"), [(np.ones(2, np.int32), "int32"), (np.ones(2), "double"), (np.array([b"a"], object), "string")]
)
def test_a_wrong_dtype_has_the_runtimes_own_words(double, feed, name):
    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        double.run({"x:0": feed}, ["y:0"])
    assert refused.value.message == f"Expects arg[0] to be float but {name} is provided"


def test_strings_of_more_dimensions_than_the_runtime_survives_are_refused():
    size = runtime(lambda: tf.size(tf.compat.v1.placeholder(tf.string, None, name="x"), name="n"))
    strings = np.array([b"a"], object)
    assert size.run({"x:0": strings.reshape((1,) * 32)}, ["n:0"]) == [1]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Tensor x:0 of strings has 33 dimensions; expected at"):
        size.run({"x:0": strings.reshape((1,) * 33)}, ["n:0"])
    size.close()


def test_an_unknown_tensor_is_named(double):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Tensor nope:0, specified in"):
        double.run({}, ["nope:0"])


def test_a_graph_that_the_runtime_does_not_know_is_refused():
    with tf.Graph().as_default() as graph:
        tf.constant(1.0)
    graph_def = graph.as_graph_def()
    graph_def.node[0].op = "NoSuchOp"
    with pytest.raises(tf.errors.NotFoundError, match="Op type not registered 'NoSuchOp'"):
        Runtime(graph_def, config_pb2.ConfigProto())


def test_a_timeout_stops_the_run(tmp_path):
    endless = runtime(lambda: gate(str(tmp_path / "never")))
    with pytest.raises(tf.errors.DeadlineExceededError):
        endless.run({}, ["y:0"], timeout=0.2)
    used = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - used < 0.25  # the loop no longer spins
    endless.close()


def test_a_deadline_that_has_passed_is_not_taken_for_none(tmp_path):
    endless = runtime(lambda: gate(str(tmp_path / "never")))
    with pytest.raises(tf.errors.DeadlineExceededError):
        endless.run({}, ["y:0"], timeout=0.0)
    endless.close()


def test_a_run_leaves_other_threads_running(tmp_path):
    waiting = runtime(lambda: gate(str(tmp_path / "gate")))
    answers = []
    thread = threading.Thread(target=lambda: answers.extend(waiting.run({}, ["y:0"], timeout=60)))
    thread.start()
    (tmp_path / "gate").touch()
    thread.join()
    assert answers == [1]
    waiting.close()


def test_a_run_that_is_late_does_not_fail_those_that_the_graph_has_joined_it_with(tmp_path):
    """The batching op runs both as one function, under the cancellation of the run that came last."""

    def build():
        pattern = tf.compat.v1.placeholder(tf.string, [], name="gate")

        @tf.nondifferentiable_batch_function(2, 2, 60_000_000, allowed_batch_sizes=[2], autograph=False)
        def double(x):
            matches = lambda *_: [tf.size(tf.io.matching_files(pattern))]  # noqa: E731
            with tf.control_dependencies([tf.io.write_file(f"{tmp_path}/joined", "")]):
                (found,) = tf.while_loop(lambda found: tf.equal(found, 0), matches, [0])
            return 2 * x * tf.cast(found, tf.float32)

        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        with tf.control_dependencies([tf.io.write_file(tf.strings.format(f"{tmp_path}/came-{{}}", x[0]), "")]):
            tf.identity(double(tf.identity(x)), name="y")

    joining, gate = runtime(build), np.array(str(tmp_path / "gate").encode(), object)

    def run(x, timeout=None):
        return joining.run({"x:0": np.full(1, x, np.float32), "gate:0": gate}, ["y:0"], timeout=timeout)

    with futures.ThreadPoolExecutor(2) as pool:
        patient = pool.submit(run, 1)
        until(tmp_path.joinpath("came-1").exists)
        time.sleep(0.1)  # from there it has one step to its place in the batch
        late = pool.submit(run, 2, timeout=0.2)
        until(tmp_path.joinpath("joined").exists)
        time.sleep(0.3)  # now its time is up
        (tmp_path / "gate").touch()
        with pytest.raises(tf.errors.DeadlineExceededError, match="Deadline Exceeded"):
            late.result(60)
        assert patient.result(60)[0].tolist() == [2]
    joining.close()


def test_closing_gives_the_memory_back():
    with tf.Graph().as_default() as graph:
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2**25], shared_name="v")
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.fill([2**25], 1.0), name="assign")

    closed = []  # they are there still, their memory is not

    def resident_after_a_life():
        loaded = Runtime(graph.as_graph_def(), config_pb2.ConfigProto())
        loaded.run({}, [], ["assign"])
        loaded.close()
        closed.append(loaded)
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    # A thread of TensorFlow's may hold the last tensor that it saw, one of 128 MiB, until it sees another.
    first, *_, last = (resident_after_a_life() for _ in range(4))
    assert last - first < 40 * 2**20
