"""Where rows of several requests wait until they make a batch, and the threads that take batches out.

Under session_batching.py in the server: tasks go in, batches come out, and what a task is does not matter here but for
its number of rows. The rules are those of TensorFlow's SharedBatchScheduler, which TensorFlow Serving has: a queue is a
row of batches, of which the last is open. A batch is ready when it is full or when its first task has waited for the
timeout. The threads go round the queues of all models.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, Self, TypeVar

import tensorflow as tf

from serving.server_config_pb2 import BatchingParameters
from serving.status import invalid

_DEFAULT_SIZE = 1000
_DEFAULT_BATCHES = 10
_UNSIGNED = 2**64  # a negative size counts as an unsigned one does in TensorFlow Serving: as no bound


class Task(Protocol):
    """What waits: some rows, which can be taken apart."""

    @property
    def rows(self) -> int:
        """At least one."""
        ...

    def split(self, sizes: list[int]) -> list[Self]:
        """Tasks of so many rows each, in place of this one."""
        ...


T = TypeVar("T", bound=Task)


@dataclasses.dataclass(frozen=True)
class Limits:
    """How a queue makes batches.

    Attributes:
        task_rows: that one task has at most.
        batch_rows: that a batch has at most.
        seconds: that a task waits for others.
        batches: that wait at most, the open one among them.
        splitting: whether a task may be taken apart, to fill batches.
    """

    task_rows: int = _DEFAULT_SIZE
    batch_rows: int = _DEFAULT_SIZE
    seconds: float = 0.0
    batches: int = _DEFAULT_BATCHES
    splitting: bool = False

    @classmethod
    def of(cls, parameters: BatchingParameters) -> Self:
        """The limits that --batching_parameters_file asks for.

        Raises:
            tf.errors.InvalidArgumentError: a value makes no sense. TensorFlow Serving crashes at some of these.
        """
        task_rows = _value(parameters, "max_batch_size", _DEFAULT_SIZE)
        micros = _value(parameters, "batch_timeout_micros", 0)
        batches = _value(parameters, "max_enqueued_batches", _DEFAULT_BATCHES)
        splitting = parameters.enable_large_batch_splitting.value
        batch_rows = _value(parameters, "max_execution_batch_size", task_rows) if splitting else task_rows
        if not splitting:
            batches = batches or 1
        for name, value in (
            ("max_batch_size", task_rows),
            ("max_enqueued_batches", batches),
            ("max_execution_batch_size", batch_rows),
        ):
            if not value:
                raise invalid(f"{name} must be positive; was 0")
        if micros < 0:
            raise invalid(f"batch_timeout_micros must be non-negative; was {micros}")
        limits = cls(task_rows % _UNSIGNED, batch_rows % _UNSIGNED, micros / 1e6, batches % _UNSIGNED, splitting)
        if limits.batch_rows > limits.task_rows:
            raise invalid(
                f"max_execution_batch_size must not be larger than max_batch_size; was {batch_rows}, with {task_rows}"
            )
        return limits


class Threads:
    """The threads that process batches, shared by all queues."""

    def __init__(self, count: int):
        """Starts them.

        Raises:
            tf.errors.InvalidArgumentError: less than one is asked for.
        """
        if count < 1:
            raise invalid(f"num_batch_threads must be positive; was {count}")
        self.changed = threading.Condition()
        self._waiting: list[Queue] = []  # those that have tasks; the next to look at comes first
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"batch-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def add(self, queue: "Queue") -> None:
        """Has a queue looked at, from now on until it is empty. To be called with `changed` held."""
        if queue not in self._waiting:
            self._waiting.append(queue)
        self.changed.notify_all()

    def close(self) -> None:
        """Ends the threads, once they have processed what they are at. Nothing may wait in a queue."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (found := self._next()) is not None:
            queue, batch = found
            queue.process(batch)

    def _next(self) -> "tuple[Queue, list[Task]] | None":
        """The next batch that is ready; None at the end."""
        with self.changed:
            while not self._closed:
                now = time.monotonic()
                for queue in list(self._waiting):
                    if queue.ready_at() <= now:
                        batch = queue.take()
                        self._waiting.remove(queue)
                        if not queue.is_empty():
                            self._waiting.append(queue)
                        return queue, batch
                soonest = min((queue.ready_at() for queue in self._waiting), default=None)
                self.changed.wait(None if soonest is None else max(0.0, soonest - now))
        return None


class Queue(Generic[T]):
    """Tasks that can be made one batch."""

    def __init__(self, threads: Threads, limits: Limits, process: Callable[[list[T]], None]):
        """An empty queue.

        Args:
            threads: that process its batches.
            limits: of its batches.
            process: is called with each batch, in one of the threads. It may not raise.
        """
        self._threads = threads
        self._limits = limits
        self.process = process
        self._batches: collections.deque[list[T]] = collections.deque([[]])
        self._opened = 0.0  # when the first task of the open batch came

    def put(self, task: T) -> None:
        """Queues a task.

        Raises:
            tf.errors.InvalidArgumentError: it has more rows than a task may have.
            tf.errors.UnavailableError: the queue is full.
        """
        if task.rows > self._limits.task_rows:
            raise invalid(f"Task size {task.rows} is larger than maximum input batch size {self._limits.task_rows}")
        with self._threads.changed:
            if self._limits.splitting:
                self._check_capacity(task.rows)
                pieces = self._split(task)
            else:
                self._check_batches(task.rows)
                pieces = [task]
            for piece in pieces:
                self._add(piece)
            self._threads.add(self)

    def is_empty(self) -> bool:
        """Whether no task waits."""
        with self._threads.changed:
            return not self._batches[0]

    def ready_at(self) -> float:
        """When the first batch may be taken, by time.monotonic(); there has to be one."""
        if len(self._batches) > 1 or _rows(self._batches[0]) >= self._limits.batch_rows:
            return 0.0
        return self._opened + self._limits.seconds

    def take(self) -> list[T]:
        """Takes the first batch out."""
        batch = self._batches.popleft()
        if not self._batches:
            self._batches.append([])
        return batch

    def _add(self, task: T) -> None:
        if _rows(self._batches[-1]) + task.rows > self._limits.batch_rows:
            self._batches.append([])
        if not self._batches[-1]:
            self._opened = time.monotonic()
        self._batches[-1].append(task)

    def _split(self, task: T) -> list[T]:
        """The task in pieces, of which the first fills the open batch."""
        sizes = []
        rest, space = task.rows, self._limits.batch_rows - _rows(self._batches[-1])
        while rest:
            if space:
                sizes.append(min(rest, space))
                rest -= sizes[-1]
            space = self._limits.batch_rows
        return [task] if len(sizes) == 1 else task.split(sizes)

    def _check_batches(self, rows: int) -> None:
        count = len(self._batches)
        if _rows(self._batches[-1]) + rows > self._limits.batch_rows and count >= self._limits.batches:
            raise _full(f"currently {count} batches enqueued and max_enqueued_batches is {self._limits.batches}")

    def _check_capacity(self, rows: int) -> None:
        size, count, opened = self._limits.batch_rows, len(self._batches), _rows(self._batches[-1])
        capacity = (self._limits.batches - count) * size + size - opened
        if rows > capacity:
            raise _full(
                f"task size is {rows} but scheduling capacity is only {capacity} (num_enqueued_batches={count}, "
                f"max_enqueued_batches={self._limits.batches}, open_batch_size={opened}, "
                f"max_execution_batch_size={size})"
            )


def _rows(batch: list[T]) -> int:
    return sum(task.rows for task in batch)


def _value(parameters: BatchingParameters, name: str, default: int) -> int:
    return getattr(parameters, name).value if parameters.HasField(name) else default


def _full(why: str) -> tf.errors.UnavailableError:
    text = f"The batch scheduling queue to which this task was submitted is full; {why}"
    return tf.errors.UnavailableError(None, None, text)
