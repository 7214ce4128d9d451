"""One request on its way through the server: what it asked, how long it may take, and where its time went.

Between the wire and the answers on the way SavedModel -> server -> client: services.py and the REST handlers make a
Call, desk.py lets it in and records it, answers.py fills in which version answered.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from serving.status import cancelled, late

# Why a call is refused: without a key that may ask for this; beyond --max_pending, the threads, the places for requests
# that are still coming, or the bytes that a request may have; because its body does not come in time, or its bytes are
# no request; because the server goes down.
Reason = Literal["key", "pending", "threads", "uploads", "size", "body", "form", "drain"]
LONGEST = 256  # characters that are kept of what a client names: a model, an id, a signature


def cut(text: str) -> str:
    """So much of a client's text as logs, metrics and traces keep."""
    return text[:LONGEST]


def _stays() -> bool:
    """What is known of a caller whose wire cannot tell whether it has gone."""
    return False


@dataclasses.dataclass
class Call:
    """One request.

    Attributes:
        api: the method, as TensorFlow Serving names it: Predict, Classify, GetModelStatus; empty for a REST request
            that names none, which is counted all the same.
        entrypoint: "GRPC" or "REST".
        id: the caller's request id, or one that the wire made.
        peer: the caller's address.
        metadata: the headers, by lower-case name.
        deadline: at which the caller gives up, by time.monotonic(), in seconds; None for a caller that waits.
        gone: whether the caller has gone already.
        model, version, signature: what was asked, and then what answered.
        examples: tf.Examples of the request, where the API counts them.
        rows: of the batch that the request brings: the first dimension of its inputs; 0 where it is not known.
        seconds: that were spent by stage: receive, queue, decode, run, encode.
        admin: whether it came in by the admin port.
        user: whose key it came with; empty where no key was asked for.
        began: when it came in, by time.perf_counter(), in seconds.
        admitted: when desk.py let it in, by the same clock; None before.
        refused: why it ended unserved; None if it did not.
        spans: the stages one by one, as (stage, start, end), in nanoseconds since the epoch.
    """

    api: str
    entrypoint: str
    id: str = ""
    peer: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    deadline: float | None = None
    gone: Callable[[], bool] = _stays
    model: str = ""
    version: int | None = None
    signature: str = ""
    examples: int = 0
    rows: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    admin: bool = False
    user: str = ""
    began: float = dataclasses.field(default_factory=time.perf_counter)
    admitted: float | None = None
    refused: Reason | None = None
    spans: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)

    def remaining(self) -> float | None:
        """Seconds until the deadline, negative behind it; None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def check(self) -> None:
        """Ends a call that nobody waits for any more.

        Raises:
            tf.errors.CancelledError: the caller has gone.
            tf.errors.DeadlineExceededError: the deadline has passed.
        """
        remaining = self.remaining()
        if remaining is not None and remaining <= 0:  # first, since at its deadline gRPC takes a caller for gone
            raise late()
        if self.gone():
            raise cancelled()

    def add(self, stage: str, seconds: float) -> None:
        """Adds time to a stage, which ends now."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        now = time.time_ns()
        self.spans.append((stage, now - int(seconds * 1e9), now))

    @contextlib.contextmanager
    def spend(self, stage: str) -> Iterator[None]:
        """Adds the time within to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)
