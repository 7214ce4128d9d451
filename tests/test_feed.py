import contextlib
import itertools
import threading

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from train.feed import ahead, local_rows, place, prefetch
from vit22b.sharding import batch_sharding, make_mesh


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class OneHost:
    """A sharding as one of several hosts sees it: with the devices that are its own."""

    def __init__(self, sharding, devices):
        self._sharding, self._devices = sharding, devices

    def addressable_devices_indices_map(self, shape):
        places = self._sharding.devices_indices_map(shape)
        return {device: places[device] for device in self._devices}


def shares(data, model, hosts, batch=16, stride=False):
    """The rows of each host, whose devices are neighbours in the list of devices, or lie `hosts` apart."""
    sharding, devices = batch_sharding(make_mesh(data, model)), jax.devices()
    each = len(devices) // hosts
    parts = [devices[i::hosts] if stride else devices[i * each : (i + 1) * each] for i in range(hosts)]
    return [local_rows(OneHost(sharding, part), batch).tolist() for part in parts]


def test_hosts_share_the_batch_where_the_mesh_splits_it():
    assert shares(8, 1, hosts=2) == [[*range(8)], [*range(8, 16)]]
    assert shares(4, 2, hosts=4) == [[4 * i + j for j in range(4)] for i in range(4)]


def test_hosts_read_the_same_rows_where_the_model_axis_spans_them():
    assert shares(2, 4, hosts=4) == [[*range(8)]] * 2 + [[*range(8, 16)]] * 2
    assert shares(1, 8, hosts=2) == [[*range(16)]] * 2


def test_a_hosts_rows_need_not_be_neighbours():
    assert shares(8, 1, hosts=2, stride=True) == [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]]


@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (2, 4), (1, 8)])
def test_a_placed_batch_is_the_batch(shape):
    sharding = batch_sharding(make_mesh(*shape))
    batch = {"pixels": np.arange(16 * 12, dtype=np.uint8).reshape(16, 2, 2, 3), "targets": np.eye(16, dtype=np.float32)}
    placed = place(batch, sharding, 16)
    assert set(placed) == set(batch)
    for name, array in batch.items():
        assert placed[name].sharding.is_equivalent_to(sharding, array.ndim)
        assert placed[name].dtype == array.dtype
        np.testing.assert_array_equal(placed[name], array)
        expected = jax.device_put(array, sharding)
        for one, other in zip(placed[name].addressable_shards, expected.addressable_shards, strict=True):
            assert one.index == other.index
            np.testing.assert_array_equal(one.data, other.data)


def test_a_batch_with_another_number_of_rows_is_an_error():
    with pytest.raises(ValueError, match="pixels has 3 rows; this host's devices hold 8 of the 8"):
        place({"pixels": np.zeros((3, 2))}, NamedSharding(make_mesh(), PartitionSpec("data")), 8)


def test_results_come_in_order_whichever_is_ready_first():
    second = threading.Event()

    def call(i):
        if i == 0:
            assert second.wait(60)
        if i == 1:
            second.set()
        return 10 * i

    assert list(ahead(call, range(20), depth=2, threads=2)) == [10 * i for i in range(20)]


def test_no_more_is_worked_out_ahead_than_asked_for():
    started = []
    with contextlib.closing(ahead(started.append, range(100), depth=3, threads=1)) as results:
        next(results)
        next(results)
    # Two were taken and three are ahead; closing starts none.
    assert len(started) <= 5


def test_closing_waits_for_the_calls_under_way():
    gate, begun, ended = threading.Event(), threading.Event(), []

    def call(i):
        if i:
            begun.set()
            assert gate.wait(60)
            ended.append(i)

    results = ahead(call, range(10), depth=1, threads=1)
    next(results)
    assert begun.wait(60)
    timer = threading.Timer(0.2, gate.set)
    timer.start()
    results.close()
    timer.join()
    assert ended == [1]


def counting(closed):
    try:
        yield from itertools.count()
    finally:
        closed.append(True)


def test_prefetch_places_every_batch_in_order_and_ends():
    assert list(prefetch((i for i in range(7)), lambda i: -i, depth=3)) == [-i for i in range(7)]
    assert list(prefetch((i for i in ()), lambda i: -i)) == []


def test_prefetch_works_ahead_of_the_step():
    reached = threading.Event()

    def batches():
        for i in range(10):
            if i == 2:
                reached.set()
            yield i

    with contextlib.closing(prefetch(batches(), lambda i: i, depth=2)) as placed:
        assert next(placed) == 0
        assert reached.wait(60)


def test_closing_prefetch_closes_the_batches():
    closed = []
    batches = counting(closed)  # held here, or it would be closed by being forgotten
    with contextlib.closing(prefetch(batches, lambda i: i)) as placed:
        assert [next(placed) for _ in range(3)] == [0, 1, 2]
        assert not closed
    assert closed == [True]


@pytest.mark.parametrize("culprit", ["batches", "place"])
def test_what_is_raised_ahead_comes_up_in_its_turn(culprit):
    def batches():
        for i in range(10):
            if culprit == "batches" and i == 3:
                raise ValueError("the third")
            yield i

    def put(i):
        if culprit == "place" and i == 3:
            raise ValueError("the third")
        return i

    placed = prefetch(batches(), put, depth=5)
    assert [next(placed) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(placed)
