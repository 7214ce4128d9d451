"""What the gateway counts, as Prometheus reads it at /metrics.

Beside the way SavedModel -> server -> [gateway] -> application. Routes are counted by their pattern and codes by their
number, so that no caller can make series without end.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "vit22b_gateway_"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one gateway.

    Attributes:
        requests: by route, method and code; 499 is a caller that did not wait for the answer.
        seconds: from a request's headers to the end of its answer, by route.
        pending: requests under way that count for --max_pending.
        items: that were asked for, by route, kind (text, image) and outcome (ok, failed).
        upstream_errors: of the model's server, by the code that the caller was given.
        banks: lists of classes, by where their vectors came from: memory, file or model.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests.", "route", "method", "code")
        self.seconds = Histogram(
            f"{_PREFIX}request_seconds", "Time of a request.", ("route",), buckets=_SECONDS, registry=self._registry
        )
        self.pending = Gauge(f"{_PREFIX}pending_requests", "Requests under way.", registry=self._registry)
        self.items = self._counter("items", "Texts and images.", "route", "kind", "outcome")
        self.upstream_errors = self._counter("upstream_errors", "Errors of the model's server.", "code")
        self.banks = self._counter("class_vectors", "Lists of classes, by the source of their vectors.", "source")
        ProcessCollector(registry=self._registry)  # memory, descriptors, processor time; on Linux alone

    def text(self) -> bytes:
        """The metrics as of now."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}{name}", text, labels, registry=self._registry)
