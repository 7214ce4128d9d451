"""How requests are joined in the graph; that one caller's bad image harms no other is shown in test_walk.py."""

import concurrent.futures
import threading

import numpy as np
import pytest
import tensorflow as tf

from export.batching import Batching

SPEC = tf.TensorSpec([None], tf.float32)


def double(x):
    return {"y": 2 * x, "size": tf.fill([tf.shape(x)[0]], tf.shape(x)[0])}


def graph(batching, name="double"):
    return tf.function(batching.around(name, double), input_signature=[SPEC], autograph=False)


def test_requests_at_once_run_as_one_and_each_gets_its_own_rows():
    joined = graph(Batching(sizes=(1, 4), timeout_micros=30_000_000), "joined")  # a full batch does not wait
    joined.get_concrete_function()
    ready = threading.Barrier(4)

    def ask(i):
        ready.wait()
        return joined([float(i)])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    assert [answer["y"].numpy().tolist() for answer in answers] == [[0], [2], [4], [6]]
    assert [int(answer["size"][0]) for answer in answers] == [4, 4, 4, 4]


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 4), (3, 4), (4, 4)])
def test_a_batch_is_filled_up_to_an_allowed_size(rows, size):
    answer = graph(Batching(sizes=(1, 4)), "filled")(np.arange(rows, dtype=np.float32))
    assert answer["y"].numpy().tolist() == [2 * i for i in range(rows)]
    assert set(answer["size"].numpy()) == {size}


def test_without_batching_the_tower_is_left_as_it_is():
    assert Batching("none").around("tower", double) is double


def test_a_request_larger_than_the_largest_size_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="Task size 5 is larger than maximum input batch size 4"):
        graph(Batching(sizes=(1, 4)), "small")(np.zeros(5, np.float32))


@pytest.mark.parametrize("sizes", [(), (0, 1), (2, 1), (1, 1)])
def test_sizes_that_cannot_be_are_an_error(sizes):
    with pytest.raises(ValueError, match="expected ascending numbers from 1"):
        Batching(sizes=sizes)


@pytest.mark.parametrize("name", ["timeout_micros", "threads", "queue"])
def test_nothing_is_no_number_of_anything(name):
    with pytest.raises(ValueError, match=f"--batch_{name} is 0; expected 1 or more"):
        Batching(**{name: 0})
