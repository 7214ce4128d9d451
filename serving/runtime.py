"""A graph in TensorFlow's runtime: feed arrays, fetch arrays, within a time.

Under the server, between a SavedModel's graph and its answers. This is the one module that uses TensorFlow's private
API: the raw session run, which `tf.compat.v1.Session.run` wraps. The wrapper converts a feed of the wrong dtype without
a word and rewrites error messages; the raw call answers with the runtime's own codes and texts, which are what
TensorFlow Serving's clients see. It releases the GIL, and one session may be run from many threads at once.
"""

import itertools
import time
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, op_def_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import pywrap_tf_session

from serving.status import invalid, late

_MAX_TIMEOUT_MS = 2**31
_MAX_RANK_OF_STRINGS = 32  # with more dimensions, TensorFlow's way from an array of strings to a tensor crashes


class Runtime:
    """A graph and the state of its variables, until closed."""

    def __init__(
        self,
        graph_def: graph_pb2.GraphDef,
        config: config_pb2.ConfigProto,
        producer_op_list: op_def_pb2.OpList | None = None,
    ):
        """Imports a graph into a session of its own.

        Args:
            graph_def: the graph.
            config: threads and devices.
            producer_op_list: the operations as the graph's producer knew them, so that an attribute that is newer than
                this runtime is dropped where it has its default.

        Raises:
            tf.errors.OpError: the runtime cannot take the graph, for instance because it has an unknown operation.
        """
        self._graph = tf.Graph()
        try:
            with self._graph.as_default():
                tf.import_graph_def(graph_def, name="", producer_op_list=producer_op_list)
        except (ValueError, TypeError) as error:
            raise invalid(str(error)) from error
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        self._joins_runs = _joins_runs(graph_def)
        self._outputs: dict[str, pywrap_tf_session.TF_Output] = {}

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        targets: Sequence[str] = (),
        timeout: float | None = None,
    ) -> list[np.ndarray]:
        """Runs the graph once.

        Args:
            feeds: tensor name, as in "x:0", to array; strings are object arrays of bytes.
            fetches: names of the tensors to answer.
            targets: names of operations to run for their effects.
            timeout: seconds after which the run is stopped; a graph that joins runs in batches of its own finishes it
                all the same, since stopping one would fail those that it was joined with.

        Returns:
            An array a fetch, in their order; a scalar string is plain bytes.

        Raises:
            tf.errors.OpError: of the class that the runtime's code asks for.
        """
        for name, array in feeds.items():
            if array.dtype == object and array.ndim > _MAX_RANK_OF_STRINGS:
                text = f"Tensor {name} of strings has {array.ndim} dimensions; expected at most {_MAX_RANK_OF_STRINGS}"
                raise invalid(text)
        feed = {self._tensor(name): array for name, array in feeds.items()}
        fetch = [self._tensor(name) for name in fetches]
        operations = [self._graph.get_operation_by_name(name)._c_op for name in targets]
        if timeout is None or not self._joins_runs:
            return self._run(feed, fetch, operations, timeout)
        end = time.monotonic() + timeout
        values = self._run(feed, fetch, operations, None)
        if time.monotonic() > end:
            raise late()
        return values

    def close(self) -> None:
        """Ends the session and gives its memory back. No run may be under way, and none may follow."""
        self._session.close()
        del self._session, self._graph, self._outputs  # the variables live until the session's destructor

    def _run(
        self,
        feed: Mapping[pywrap_tf_session.TF_Output, np.ndarray],
        fetch: Sequence[pywrap_tf_session.TF_Output],
        operations: Sequence[pywrap_tf_session.TF_Operation],
        timeout: float | None,
    ) -> list[np.ndarray]:
        options = config_pb2.RunOptions(timeout_in_ms=_milliseconds(timeout))
        buffer = pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())
        try:
            return pywrap_tf_session.TF_SessionRun_wrapper(
                self._session._session, buffer, feed, fetch, operations, None
            )
        finally:
            pywrap_tf_session.TF_DeleteBuffer(buffer)

    def _tensor(self, name: str) -> pywrap_tf_session.TF_Output:
        """A tensor as the raw run wants it, looked up once."""
        if name not in self._outputs:
            self._outputs[name] = self._find(name)
        return self._outputs[name]

    def _find(self, name: str) -> pywrap_tf_session.TF_Output:
        operation, _, index = name.partition(":")
        try:
            outputs = self._graph.get_operation_by_name(operation).outputs
            if not outputs:
                raise invalid(
                    f"Tried to fetch data for '{name}', which produces no output.  To run to a node but not fetch any "
                    f"data, pass '{name}' as an argument to the 'target_node_names' argument of the Session::Run API.",
                )
            return outputs[int(index or 0)]._as_tf_output()
        except (IndexError, KeyError, ValueError) as error:
            text = f"Tensor {name}, specified in either feed_devices or fetch_devices was not found in the Graph"
            raise invalid(text) from error


def _joins_runs(graph_def: graph_pb2.GraphDef) -> bool:
    """Whether the graph has TensorFlow's batching op, which runs a batch under the cancellation of its last run."""
    functions = (function.node_def for function in graph_def.library.function)
    return any(node.op == "BatchFunction" for node in itertools.chain(graph_def.node, *functions))


def _milliseconds(timeout: float | None) -> int:
    """RunOptions.timeout_in_ms, in which 0 means without end: a deadline that has passed still leaves 1 ms."""
    if timeout is None:
        return 0
    return max(1, int(min(1000 * timeout, _MAX_TIMEOUT_MS)))
