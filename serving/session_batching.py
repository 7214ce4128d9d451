"""Requests of one signature, run as one: what --enable_batching puts around a version's runtime.

Between a loaded version (servable.py) and its runtime in the server. The rows of several requests are joined, the
graph is run once, and each request gets its rows of the answer. There is no isolation: what fails, fails for all
requests of a batch. Codes, texts and limits are TensorFlow Serving's; batch_queue.py has the waiting, batch_tensors.py
the joining.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from serving import batch_tensors, tensors
from serving.batch_queue import Limits, Queue, Threads
from serving.batch_request import Request, Rows
from serving.call import Call
from serving.runtime import Runtime
from serving.server_config_pb2 import BatchingParameters
from serving.status import defect, invalid
from serving.text_protos import read_text_proto

PARAMETERS_FILE = "batching_params.pbtxt"

Key = tuple[frozenset[str], frozenset[str]]  # names of the tensors that are fed, and of those that are fetched
Observe = Callable[[str, float, Mapping[str, str]], None]

logger = logging.getLogger(__name__)


def _unobserved(_name: str, _value: float, _labels: Mapping[str, str]) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Batching:
    """What --enable_batching asks for, of every version that is loaded.

    Attributes:
        threads: that process the batches of all versions.
        parameters: of --batching_parameters_file.
        per_model: a version has the parameters of its own batching_params.pbtxt, and without one it is not batched.
        observe: is told numbers under the names and labels that TensorFlow Serving has for them below
            /tensorflow/serving/batching_session/: input_batch_size, processed_batch_size and padding_size in rows,
            queuing_latency in microseconds, wrapped_run_count.
    """

    threads: Threads
    parameters: BatchingParameters
    per_model: bool = False
    observe: Observe = _unobserved

    def wrap(self, runtime: Runtime, path: Path) -> "SessionBatching | None":
        """The batching of a version, or None for one that has none.

        Raises:
            tf.errors.OpError: the parameters cannot be read, or make no sense.
        """
        parameters = self.parameters
        if self.per_model:
            file = path / PARAMETERS_FILE
            if not file.exists():
                return None
            parameters = read_text_proto(file, BatchingParameters())
        return SessionBatching(runtime, self.threads, parameters, self.observe)


class SessionBatching:
    """Runs a version's graph for many requests at once."""

    def __init__(
        self, runtime: Runtime, threads: Threads, parameters: BatchingParameters, observe: Observe = _unobserved
    ):
        """No request waits yet.

        Raises:
            tf.errors.InvalidArgumentError: the parameters make no sense.
        """
        self._runtime = runtime
        self._threads = threads
        self._limits = Limits.of(parameters)
        self._allowed = list(parameters.allowed_batch_sizes)
        self._pool_name = parameters.thread_pool_name.value
        self._pad_shapes = parameters.pad_variable_length_inputs
        self._observe = observe
        self._queues: dict[Key, Queue[Rows]] = {}  # those in which rows wait, or have waited until a moment ago
        self._lock = threading.Lock()
        largest = parameters.max_batch_size.value if parameters.HasField("max_batch_size") else Limits().task_rows
        if self._allowed and self._allowed[-1] != largest:
            raise invalid(
                "Last entry in allowed_batch_sizes must match max_batch_size; "
                f"last entry was {self._allowed[-1]}; expected {largest}",
            )

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], call: Call | None = None
    ) -> list[np.ndarray]:
        """Runs the graph, with others that feed and fetch the same.

        Args:
            feeds: tensor name to array; the first dimension of all is the request's rows.
            fetches: names of the tensors to answer.
            call: that it is for. One whose caller has gone, or gives up, before its turn is not computed.

        Returns:
            An array a fetch, in their order, with the request's rows.

        Raises:
            tf.errors.OpError: with the code and the text that the caller gets.
        """
        rows = batch_tensors.rows(feeds)
        for _ in feeds:
            self._observe("input_batch_size", rows, {})
        request = Request(call)
        request.parts = [Rows(request, feeds, rows)]
        self._put(request.parts[0], (frozenset(feeds), frozenset(fetches)))
        answer = request.wait()
        return [answer[name] for name in fetches]

    def _put(self, rows: Rows, key: Key) -> None:
        with self._lock:  # until the rows are in, so that their queue is not forgotten
            queue = self._queues.get(key)
            if queue is None:
                queue = Queue(self._threads, self._limits, lambda batch: self._process(batch, key))
            queue.put(rows)
            self._queues[key] = queue

    def _leave(self, key: Key) -> None:
        """Forgets an empty queue: a client picks what it fetches, and there are 2^n ways to pick from n outputs."""
        with self._lock:
            queue = self._queues.get(key)
            if queue is not None and queue.is_empty():
                del self._queues[key]

    def _process(self, batch: list[Rows], key: Key) -> None:
        """Runs a batch, and tells its requests; whatever goes wrong, none of them is left waiting."""
        try:
            self._leave(key)
            live = self._take(batch)
            answers = self._run(live, sorted(key[1])) if live else []
            for part, answer in zip(live, answers, strict=True):
                part.answer = answer
                part.end()
        except tf.errors.OpError as error:
            _fail(batch, error)
        except Exception:  # as in services.py: its insides are not the callers' to see
            logger.exception("A batch failed")
            _fail(batch, defect())

    def _take(self, batch: list[Rows]) -> list[Rows]:
        """Notes that a batch has left its queue; returns the rows that have to be computed."""
        now = time.perf_counter()
        for part in batch:
            part.take(now)
            waited = 1e6 * (now - part.request.entered)
            self._observe("queuing_latency", waited, {"thread_pool_name": self._pool_name})
        return [part for part in batch if part.awaited()]

    def _run(self, parts: list[Rows], fetches: list[str]) -> list[dict[str, np.ndarray]]:
        sizes = [part.rows for part in parts]
        total = next((size for size in self._allowed if size >= sum(sizes)), sum(sizes))
        extra = total - sum(sizes)
        self._observe("padding_size", extra, {"execution_batch_size": str(total)})
        self._observe("processed_batch_size", total, {})
        feeds = batch_tensors.join([part.feeds for part in parts], extra=extra, pad_shapes=self._pad_shapes)
        left = [part.request.remaining() for part in parts]
        # One run for all of them: it may take as long as the most patient caller waits.
        timeout = None if None in left else max(left)
        self._observe("wrapped_run_count", 1, {})
        values = self._runtime.run(feeds, fetches, timeout=timeout)
        outputs = {name: tensors.as_array(value) for name, value in zip(fetches, values, strict=True)}
        return batch_tensors.part(outputs, sizes, total)


def _fail(batch: list[Rows], error: tf.errors.OpError) -> None:
    """Ends what of a batch has not ended yet."""
    for part in batch:
        if not part.over:
            part.end(error)
