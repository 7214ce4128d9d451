"""Batches on their way to the devices: which rows this host reads, and reading ahead of the step.

Between input and train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Every host reads the rows that its own devices hold, and no more; a global array is made of them without a transfer
between hosts.
"""

import collections
import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Sharding

Item = TypeVar("Item")
Result = TypeVar("Result")


def local_rows(sharding: Sharding, batch: int) -> npt.NDArray[np.int64]:
    """The rows of a batch that this process's devices hold, ascending; all of them where there is one process.

    Devices of one host need not lie side by side in the mesh, and where the mesh axis `model` spans hosts several hosts
    hold the same rows: this asks the sharding.

    Args:
        sharding: of arrays [batch, ...], split on the first axis at most.
        batch: rows of the whole batch.
    """
    places = sharding.addressable_devices_indices_map((batch,))
    return np.unique(np.concatenate([np.arange(batch)[index] for index in places.values()]))


def place(local: Mapping[str, npt.NDArray[Any]], sharding: Sharding, batch: int) -> dict[str, jax.Array]:
    """Global arrays [batch, ...] of the rows that each host has read.

    Args:
        local: arrays with the rows local_rows(sharding, batch), in this order.
        sharding: as for local_rows.
        batch: rows of the whole batch.

    Raises:
        ValueError: an array has another number of rows.
    """
    rows = local_rows(sharding, batch)

    def put(name: str, array: npt.NDArray[Any]) -> jax.Array:
        if len(array) != len(rows):
            raise ValueError(f"{name} has {len(array)} rows; this host's devices hold {len(rows)} of the {batch}")

        def part(index: Any) -> npt.NDArray[Any]:
            first, last, _ = index[0].indices(batch)
            # A device's rows are neighbours in the batch, so they are among the host's rows as well.
            begin = np.searchsorted(rows, first)
            return array[begin : begin + last - first]

        return jax.make_array_from_callback((batch, *array.shape[1:]), sharding, part)

    return {name: put(name, array) for name, array in local.items()}


def ahead(
    call: Callable[[Item], Result], items: Iterable[Item], depth: int, threads: int
) -> Generator[Result, None, None]:
    """What `call` gives for each of the items, in their order, worked out by threads up to `depth` items ahead.

    What a call raises comes up in its place. Closing the generator waits for the calls under way and leaves no thread.
    """
    running: collections.deque[Future[Result]] = collections.deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            running.append(pool.submit(call, item))
            if len(running) > depth:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def prefetch(
    batches: Generator[Item, None, None], put: Callable[[Item], Result], depth: int = 2
) -> Generator[Result, None, None]:
    """Takes batches and puts them on the devices in a thread, up to `depth` ahead; what they raise comes up in turn.

    Close it (contextlib.closing) to stop: it then closes the batches too. The time that its next() takes is what a
    step waits for data.
    """
    end = object()

    def take(_: None) -> Result | object:
        batch = next(batches, end)
        return end if batch is end else put(batch)  # type: ignore[arg-type]

    with contextlib.closing(batches), contextlib.closing(ahead(take, itertools.repeat(None), depth, 1)) as placed:
        for batch in placed:
            if batch is end:
                return
            yield batch  # type: ignore[misc]
