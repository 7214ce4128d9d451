import itertools
import threading
import time
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2

from serving.batch_queue import Queue, Threads
from serving.call import Call
from serving.runtime import Runtime
from serving.server_config_pb2 import BatchingParameters
from serving.session_batching import PARAMETERS_FILE, Batching, SessionBatching

FOUR = "max_batch_size { value: 4 } batch_timeout_micros { value: 60000000 } max_enqueued_batches { value: 1 }"
FULL = "The batch scheduling queue to which this task was submitted is full;"
SIZES = "the 0th dimension sizes of the input tensors"
AT_ONCE = "max_batch_size { value: 4 } batch_timeout_micros { value: 0 }"


@pytest.fixture(scope="module")
def runtime():
    """y = 2 x, z = -x, w = x + 1, total = the sum of x, and held = x once the file of that name exists."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, None, name="x")
        gate = tf.compat.v1.placeholder(tf.string, [None], name="gate")
        tf.multiply(x, 2.0, name="y")
        tf.negative(x, name="z")
        tf.add(x, 1.0, name="w")
        tf.reduce_sum(x, name="total")
        tf.slice(x, [0], [1], name="first")
        found = lambda *_: [tf.size(tf.io.matching_files(gate))]  # noqa: E731
        opened = tf.while_loop(lambda count: tf.equal(count, 0), found, [0])[0]
        tf.fill([tf.size(gate)], opened, name="held")
    loaded = Runtime(graph.as_graph_def(), config_pb2.ConfigProto())
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def threads():
    made = Threads(1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def pool():
    with futures.ThreadPoolExecutor(16) as made:
        yield made


class Batched:
    """A version's batching, what it observes, and requests to it in threads of their own."""

    def __init__(self, runtime, threads, pool, queued, parameters):
        self.seen = []
        self._queued = queued
        parameters = text_format.Parse(parameters, BatchingParameters())
        observe = lambda *what: self.seen.append(what)  # noqa: E731
        self._batching = SessionBatching(runtime, threads, parameters, observe)
        self._pool = pool

    def ask(self, x, fetch="y:0", feed="x:0", call=None):
        return self.ask_all(x, [fetch], feed, call, take=lambda answers: answers[0])

    def ask_all(self, x, fetches, feed="x:0", call=None, take=list):
        return self._pool.submit(lambda: take(self._batching.run({feed: np.asarray(x)}, fetches, call)))

    def ask_in_order(self, *requests, **options):
        """Each is queued before the next."""
        asked = []
        for request in requests:
            before = len(self._queued)
            new = self.ask(request, **options)
            wait_for(lambda before=before, new=new: len(self._queued) > before or new.done())
            asked.append(new)
        return asked

    def queues(self):
        return len(self._batching._queues)

    def values(self, name):
        return [value for key, value, _labels in self.seen if key == name]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def batched(runtime, threads, pool, monkeypatch):
    put, queued = Queue.put, []

    def put_and_tell(queue, task):
        put(queue, task)
        queued.append(task)

    monkeypatch.setattr(Queue, "put", put_and_tell)
    return lambda parameters: Batched(runtime, threads, pool, queued, parameters)


@pytest.fixture
def hold(tmp_path, batched):
    """Keeps the one thread at work until it is called."""
    gate = tmp_path / "gate"
    held = batched(AT_ONCE)
    running = held.ask([str(gate).encode()], "held:0", "gate:0")
    wait_for(lambda: held.values("wrapped_run_count"))

    def release():
        gate.touch()
        running.result(60)

    yield release
    release()


def error_of(asked):
    error = asked.exception(60)
    return type(error), error.message


def f(*values):
    return np.array(values, np.float32)


def test_requests_are_joined_and_each_gets_its_rows(batched):
    four = batched(FOUR)
    first, second = four.ask(f(1, 2)), four.ask(f(3, 4))
    assert (first.result(60).tolist(), second.result(60).tolist()) == ([2, 4], [6, 8])
    assert four.values("wrapped_run_count") == [1]
    assert (four.values("input_batch_size"), four.values("processed_batch_size")) == ([2, 2], [4])


def test_what_others_fetch_is_not_joined(batched):
    four = batched(FOUR)
    asked = [four.ask(f(1, 2)), four.ask(f(1, 2, 3, 4), "z:0"), four.ask(f(3, 4))]
    assert [request.result(60).tolist() for request in asked] == [[2, 4], [-1, -2, -3, -4], [6, 8]]
    assert sorted(four.values("processed_batch_size")) == [4, 4]


def test_what_clients_pick_to_fetch_leaves_nothing_behind(batched):
    four = batched(AT_ONCE)
    outputs = {"y:0": [2, 4], "z:0": [-1, -2], "w:0": [2, 3]}
    ways = [way for count in (1, 2, 3) for way in itertools.permutations(outputs, count)]
    asked = [(way, four.ask_all(f(1, 2), way)) for way in 10 * ways]
    for way, request in asked:
        assert [array.tolist() for array in request.result(60)] == [outputs[name] for name in way]
    assert four.queues() == 0
    assert error_of(four.ask(f(1, 2, 3, 4, 5)))[0] is tf.errors.InvalidArgumentError
    assert four.queues() == 0


def test_a_queue_is_kept_while_something_waits_in_it(batched, hold):
    many = batched(AT_ONCE + " max_enqueued_batches { value: 2 }")
    asked = many.ask_in_order(f(1, 2, 3), f(4, 5, 6))
    assert many.queues() == 1
    assert error_of(many.ask(f(7, 8)))[0] is tf.errors.UnavailableError
    hold()
    assert [request.result(60).tolist() for request in asked] == [[2, 4, 6], [8, 10, 12]]
    assert many.queues() == 0


def test_a_lone_request_waits_the_timeout(batched):
    lone = batched("batch_timeout_micros { value: 50000 }")
    call = Call("Predict", "GRPC")
    assert lone.ask(f(1), call=call).result(60).tolist() == [2]
    (waited,) = lone.values("queuing_latency")
    assert waited >= 50000
    assert call.seconds["queue"] == pytest.approx(waited / 1e6)
    assert set(call.seconds) == {"queue", "run"}


@pytest.mark.parametrize(
    ("feeds", "text"),
    [
        ({}, "Batching Run() must have at least one input tensor"),
        ({"x:0": f(1), "y:0": np.float32(1)}, "Batching Run() input tensors must have at least one dimension"),
        ({"x:0": f(1), "y:0": f(1, 2)}, "Batching Run() input tensors must have equal 0th-dimension size"),
        ({"x:0": f()}, "Batching Run() input tensors must have at least one row; the 0th-dimension size is 0"),
        ({"x:0": f(1, 2, 3, 4, 5)}, "Task size 5 is larger than maximum input batch size 4"),
    ],
)
def test_what_cannot_be_joined_is_refused(runtime, threads, feeds, text):
    batching = SessionBatching(runtime, threads, text_format.Parse(FOUR, BatchingParameters()))
    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        batching.run({name: np.asarray(array) for name, array in feeds.items()}, ["y:0"])
    assert refused.value.message == text


def test_requests_of_other_shapes_fail_each_other(batched):
    four = batched(FOUR)
    asked = four.ask_in_order(np.ones((2, 1), np.float32), np.ones((2, 2), np.float32))
    text = (
        "Tensors with name 'x:0' from different tasks have different shapes and padding is turned off. Set "
        "pad_variable_length_inputs to true, or ensure that all tensors with the same name have equal dimensions "
        "starting with the first dim."
    )
    assert {error_of(request) for request in asked} == {(tf.errors.FailedPreconditionError, text)}


def test_requests_of_other_dtypes_fail_each_other(batched):
    four = batched(FOUR)
    asked = four.ask_in_order(np.ones(2, np.int32), f(1, 2))
    text = (
        "Tensor concat operation failed: INVALID_ARGUMENT: Cannot concatenate tensors that have different data types. "
        "Got int32 and float."
    )
    assert {error_of(request) for request in asked} == {(tf.errors.InternalError, text)}


@pytest.mark.parametrize(
    ("fetch", "text"),
    [
        ("total:0", "Batched output tensor has 0 dimensions"),
        ("first:0", f"Batched output tensor's 0th dimension does not equal the sum of {SIZES}"),
    ],
)
def test_an_output_has_a_row_for_each_that_was_fed(batched, fetch, text):
    assert error_of(batched(AT_ONCE).ask(f(1, 2), fetch)) == (tf.errors.FailedPreconditionError, text)


def test_a_runs_own_error_is_every_requests(batched):
    four = batched(FOUR)
    asked = [four.ask(np.ones(2, np.int32)), four.ask(np.ones(2, np.int32))]
    expected = (tf.errors.InvalidArgumentError, "Expects arg[0] to be float but int32 is provided")
    assert [error_of(request) for request in asked] == [expected, expected]
    assert asked[0].exception() is not asked[1].exception()


def test_batches_are_padded_to_allowed_sizes(batched):
    allowed = batched(f"{AT_ONCE} allowed_batch_sizes: 1 allowed_batch_sizes: 4")
    assert allowed.ask(f(1, 2, 3)).result(60).tolist() == [2, 4, 6]
    assert allowed.values("processed_batch_size") == [4]
    assert ("padding_size", 1, {"execution_batch_size": "4"}) in allowed.seen


def test_inner_shapes_are_padded_on_request(batched):
    padded = batched(f"{FOUR} pad_variable_length_inputs: true")
    asked = padded.ask_in_order(np.float32([[1, 2], [3, 4]]), np.float32([[5], [6]]))
    assert [request.result(60).tolist() for request in asked] == [[[2, 4], [6, 8]], [[10, 10], [12, 10]]]


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (np.ones((2, 1)), np.ones((2, 0)), "Got empty tensor in batch of non-empty tensors."),
        (np.ones((2, 1)), np.ones(2), "Tensors with name 'x:0' from different tasks have different ranks: [1, 2]"),
        (np.ones([2] + 6 * [1]), np.ones([2] + 6 * [2]), "Only tensors with rank from 1 to 6 can be padded."),
    ],
)
def test_what_cannot_be_padded_is_refused(batched, one, other, text):
    padded = batched(f"{FOUR} pad_variable_length_inputs: true")
    asked = [padded.ask(one.astype(np.float32)), padded.ask(other.astype(np.float32))]
    assert {error_of(request) for request in asked} == {(tf.errors.InvalidArgumentError, text)}


def test_a_full_queue_refuses_at_once(batched, hold):
    four = batched(FOUR)
    waiting = four.ask_in_order(f(1, 2), f(3, 4))
    text = f"{FULL} currently 1 batches enqueued and max_enqueued_batches is 1"
    assert error_of(four.ask(f(5))) == (tf.errors.UnavailableError, text)
    hold()
    assert [request.result(60).tolist() for request in waiting] == [[2, 4], [6, 8]]


SPLITTING = (
    "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 } "
    "batch_timeout_micros { value: 0 } max_enqueued_batches { value: 3 }"
)


def test_large_requests_are_split_and_fill_batches(batched, hold):
    eight = batched(SPLITTING)
    asked = eight.ask_in_order(f(1), f(*range(8)), f(5))
    assert error_of(eight.ask(f(*range(9))))[1] == "Task size 9 is larger than maximum input batch size 8"
    text = f"{FULL} task size is 3 but scheduling capacity is only 2 (num_enqueued_batches=3, max_enqueued_batches=3, "
    text += "open_batch_size=2, max_execution_batch_size=4)"
    assert error_of(eight.ask(f(1, 2, 3))) == (tf.errors.UnavailableError, text)
    hold()
    assert [request.result(60).tolist() for request in asked] == [[2], [2 * i for i in range(8)], [10]]
    assert eight.values("processed_batch_size") == [4, 4, 2]


def test_a_part_that_fails_fails_the_whole(batched):
    eight = batched(SPLITTING)
    assert error_of(eight.ask(np.ones(8, np.int32)))[1] == "Expects arg[0] to be float but int32 is provided"


def test_who_waits_no_more_is_not_computed(batched, hold):
    four = batched(FOUR.replace("60000000", "0"))
    gone = threading.Event()
    late = Call("Predict", "REST", deadline=time.monotonic() + 0.01)
    (expired,) = four.ask_in_order(f(1), call=late)
    (cancelled,) = four.ask_in_order(f(2), call=Call("Predict", "GRPC", gone=gone.is_set))
    (answered,) = four.ask_in_order(f(3), call=Call("Predict", "GRPC", deadline=time.monotonic() + 60))
    gone.set()
    wait_for(lambda: late.remaining() < 0)
    hold()
    assert answered.result(60).tolist() == [6]
    assert error_of(cancelled)[0] is tf.errors.CancelledError
    text = "Run() timeout exceeded while waiting in batching queue"
    assert error_of(expired) == (tf.errors.ResourceExhaustedError, text)
    assert four.values("processed_batch_size") == [1]


def test_a_defect_before_the_run_is_told_and_the_thread_works_on(batched, caplog):
    two = batched("max_batch_size { value: 2 } batch_timeout_micros { value: 60000000 }")

    def defect():
        raise RuntimeError("a defect")

    asked = [two.ask(f(1), call=Call("Predict", "GRPC", gone=defect)), two.ask(f(2))]
    text = "The server failed at this request; its log says why"
    assert {error_of(request) for request in asked} == {(tf.errors.InternalError, text)}
    assert "RuntimeError: a defect" in caplog.text
    assert two.ask(f(1, 2)).result(60).tolist() == [2, 4]


def test_the_time_in_the_queue_is_told_under_the_name_of_the_pool(batched):
    named = batched(f'{AT_ONCE} thread_pool_name {{ value: "pool" }}')
    named.ask(f(1)).result(60)
    assert [labels for name, _value, labels in named.seen if name == "queuing_latency"] == [
        {"thread_pool_name": "pool"}
    ]


@pytest.mark.parametrize("last", [1200, None])
def test_a_batch_runs_as_long_as_its_last_deadline(batched, runtime, monkeypatch, last):
    run, timeouts = runtime.run, []

    def noted(*what, timeout):
        timeouts.append(timeout)
        return run(*what, timeout=timeout)

    monkeypatch.setattr(runtime, "run", noted)
    two = batched("max_batch_size { value: 2 } batch_timeout_micros { value: 60000000 }")
    deadlines = [time.monotonic() + 600, None if last is None else time.monotonic() + last]
    asked = [two.ask(f(1), call=Call("Predict", "GRPC", deadline=deadline)) for deadline in deadlines]
    assert [request.result(60).tolist() for request in asked] == [[2], [2]]
    (timeout,) = timeouts
    assert timeout is None if last is None else 600 < timeout <= 1200


def test_a_run_ends_at_its_deadline(batched, tmp_path):
    call = Call("Predict", "GRPC", deadline=time.monotonic() + 0.2)
    asked = batched(AT_ONCE).ask([str(tmp_path / "never").encode()], "held:0", "gate:0", call)
    assert error_of(asked)[0] is tf.errors.DeadlineExceededError


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        (
            f"{AT_ONCE} allowed_batch_sizes: 2",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 2; expected 4",
        ),
        (
            "allowed_batch_sizes: 2",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 2; expected 1000",
        ),
        (
            SPLITTING.replace("value: 8", "value: 2"),
            "max_execution_batch_size must not be larger than max_batch_size; was 4, with 2",
        ),
        (SPLITTING.replace("value: 3", "value: 0"), "max_enqueued_batches must be positive; was 0"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(batched, parameters, text):
    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        batched(parameters)
    assert refused.value.message == text


@pytest.mark.parametrize("parameters", ["max_batch_size { value: -1 }", "max_enqueued_batches { value: 0 }"])
def test_odd_parameters_that_the_real_server_takes_are_taken(batched, parameters):
    assert batched(parameters).ask(f(*range(5000))[:900]).result(60)[-1] == 2 * 899


def test_there_has_to_be_a_thread():
    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        Threads(0)
    assert refused.value.message == "num_batch_threads must be positive; was 0"


def test_a_version_may_bring_parameters_of_its_own(runtime, threads, tmp_path):
    batching = Batching(threads, text_format.Parse(FOUR, BatchingParameters()), per_model=True)
    assert batching.wrap(runtime, tmp_path) is None
    (tmp_path / PARAMETERS_FILE).write_text("max_batch_size { value: 2 } batch_timeout_micros { value: 0 }")
    own = batching.wrap(runtime, tmp_path)
    assert own.run({"x:0": f(1, 2)}, ["y:0"])[0].tolist() == [2, 4]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Task size 3 is larger than maximum input batch size 2"):
        own.run({"x:0": f(1, 2, 3)}, ["y:0"])
    (tmp_path / PARAMETERS_FILE).write_text("max_batch_size: 2")
    with pytest.raises(tf.errors.InvalidArgumentError, match="Invalid protobuf file: '"):
        batching.wrap(runtime, tmp_path)
