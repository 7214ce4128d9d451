"""In-graph batching: requests of several callers joined into one run of a tower, on any server that runs the graph.

Inside SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The op is
TensorFlow Serving's own scheduler, inside the graph.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal

import tensorflow as tf
import tyro

from vit22b import signature

Outputs = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Batching:
    """How the graph joins the requests of several callers into one run of a tower."""

    kind: Annotated[Literal["graph", "none"], tyro.conf.arg(name="batching")] = "graph"
    """graph: requests of several callers are joined inside the graph. none: each runs by itself, at any size."""
    sizes: Annotated[tuple[int, ...], tyro.conf.arg(name="batch_sizes")] = signature.BATCH_SIZES
    """Allowed batch sizes, ascending, all of them warmed before the version is AVAILABLE; the last caps a request."""
    timeout_micros: Annotated[int, tyro.conf.arg(name="batch_timeout_micros")] = 1000
    """Longest wait of a request for others to join it."""
    threads: Annotated[int, tyro.conf.arg(name="batch_threads")] = 2
    """Batches that run at once."""
    queue: Annotated[int, tyro.conf.arg(name="batch_queue")] = 64
    """Full batches that may wait; beyond them a request is refused as UNAVAILABLE."""

    def __post_init__(self) -> None:
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise ValueError(f"--batch_sizes are {self.sizes}; expected ascending numbers from 1, for instance 1 2 4 8")
        for name in ("timeout_micros", "threads", "queue"):
            if getattr(self, name) < 1:
                raise ValueError(f"--batch_{name} is {getattr(self, name)}; expected 1 or more")

    def around(self, name: str, run: Callable[[tf.Tensor], Outputs]) -> Callable[[tf.Tensor], Outputs]:
        """The tower, run through a batching op of its own, or as it is where there is no batching.

        Args:
            name: of the tower, unique in the graph.
            run: the tower, of one tensor with a leading batch.
        """
        if self.kind == "none":
            return run
        batched = tf.nondifferentiable_batch_function(
            num_batch_threads=self.threads,
            max_batch_size=self.sizes[-1],
            batch_timeout_micros=self.timeout_micros,
            allowed_batch_sizes=list(self.sizes),
            max_enqueued_batches=self.queue,
            autograph=False,
        )(run)

        def scoped(x: tf.Tensor) -> Outputs:
            # The op's queue is found by the scope it was made in: two towers in one scope would share a queue.
            with tf.name_scope(f"{name}_tower"):
                return batched(x)

        return scoped
