"""What the server counts of its requests, loads and batches: TensorFlow Serving's metrics, and some of our own.

Beside the way SavedModel -> server -> client: an observer of desk.py, shown by metrics_page.py. Names, labels, buckets
and what counts are TensorFlow Serving's; ours begin with /vit22b/serving/. Times are in microseconds.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.samples import Sample

from serving.call import Call
from serving.model_names import ModelNames

_COUNTED = frozenset({"Predict", "Classify", "Regress"})  # over gRPC; over REST everything counts


def _exponential(scale: float, factor: float, count: int) -> tuple[float, ...]:
    """The limits of TensorFlow's buckets: so many, and one more that goes on to infinity."""
    return tuple(scale * factor**exponent for exponent in range(count))


_LATENCY = _exponential(10, 1.8, 33)


@dataclasses.dataclass(frozen=True)
class Family:
    """One metric: its name as TensorFlow writes it, with slashes; its kind, labels and, of a histogram, buckets."""

    name: str
    kind: type[Counter] | type[Gauge] | type[Histogram]
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exposed_name(self) -> str:
        """The name as Prometheus takes it."""
        return self.name.replace("/", ":")

    def make(self) -> Any:
        """The metric, without series; it is on no list but ours."""
        options = {"buckets": self.buckets} if self.buckets else {}
        return self.kind(self.exposed_name, self.name, self.labels, registry=None, **options)


_SERVING = "/tensorflow/serving/"
_BATCHING = _SERVING + "batching_session/"
_LOADING = "/tensorflow/cc/saved_model/"
_OURS = "/vit22b/serving/"
_EXAMPLES = _exponential(1, 2, 15)  # to 16384
_BATCHES = _exponential(1, 2, 14)  # to 8192

FAMILIES = (
    Family(_SERVING + "request_count", Counter, ("model_name", "status")),
    Family(_SERVING + "request_latency", Histogram, ("model_name", "API", "entrypoint"), _LATENCY),
    Family(_SERVING + "runtime_latency", Histogram, ("model_name", "API", "runtime"), _LATENCY),
    Family(_SERVING + "request_example_counts", Histogram, ("model",), _EXAMPLES),
    Family(_SERVING + "request_example_count_total", Counter, ("model",)),
    Family(_SERVING + "model_warmup_latency", Histogram, ("model_path", "status"), _LATENCY),
    Family(_SERVING + "model_warmup_records_read", Counter, ("model_path", "status")),
    Family(_BATCHING + "input_batch_size", Histogram, (), _BATCHES),
    Family(_BATCHING + "processed_batch_size", Histogram, (), _BATCHES),
    Family(_BATCHING + "padding_size", Histogram, ("execution_batch_size",), _BATCHES),
    Family(_BATCHING + "queuing_latency", Histogram, ("thread_pool_name",), _exponential(100, 1.2, 52)),
    Family(_BATCHING + "wrapped_run_count", Counter),
    Family(_LOADING + "load_attempt_count", Counter, ("model_path", "status")),
    Family(_LOADING + "load_latency", Counter, ("model_path",)),
    # These are never counted here; TensorFlow Serving lists them all the same.
    Family(_SERVING + "mlmd_map", Gauge, ("model_name", "version")),
    Family(_SERVING + "request_log_count", Counter, ("model_name", "status_code")),
    Family(_OURS + "stage_latency", Histogram, ("model_name", "API", "stage"), _LATENCY),
    Family(_OURS + "request_batch_size", Histogram, ("model_name", "API"), _BATCHES),
    Family(_OURS + "refused_count", Counter, ("API", "status", "reason")),
    Family(_OURS + "queue_depth", Gauge),
    Family(_OURS + "requests_running", Gauge),
)


class Monitoring:
    """The metrics of one server.

    Attributes:
        names: under which models are counted.
    """

    def __init__(self) -> None:
        self.names = ModelNames()
        self._metrics = {family.name: family.make() for family in FAMILIES}
        self._process = ProcessCollector(registry=None)  # memory, descriptors, processor time; on Linux alone

    def record(self, name: str, value: float, *labels: str) -> None:
        """Adds to a counter, or an observation to a histogram.

        Args:
            name: of the metric, as TensorFlow writes it.
            value: how much; times are in microseconds.
            labels: their values, in the order of the family's.
        """
        metric = self._metrics[name]
        if labels:
            metric = metric.labels(*labels)
        if isinstance(metric, Histogram):
            metric.observe(value)
        else:
            metric.inc(value)

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Shows what `read` returns as a gauge."""
        self._metrics[name].set_function(read)

    def end(self, call: Call, status: str, seconds: float) -> None:
        """Counts a request."""
        model = self.names.of(call)
        # TensorFlow Serving's handlers do not see what gRPC refuses.
        if call.entrypoint == "REST" or (call.api in _COUNTED and not call.refused):
            self.record(_SERVING + "request_count", 1, model, status)
            if status == "OK":
                api = _api(call)
                self.record(_SERVING + "request_latency", int(seconds * 1e6), model, api, call.entrypoint)
        if call.refused:
            self.record(_OURS + "refused_count", 1, call.api, status, call.refused)
        if status == "OK":
            if call.api in _COUNTED and "run" in call.seconds:
                self.record(_SERVING + "runtime_latency", int(call.seconds["run"] * 1e6), model, call.api, "TF1")
            if call.api == "MultiInference" and call.examples:  # as in TensorFlow Serving: not by the other methods
                self.record(_SERVING + "request_example_counts", call.examples, model)
                self.record(_SERVING + "request_example_count_total", call.examples, model)
            if call.rows:
                self.record(_OURS + "request_batch_size", call.rows, model, call.api)
        for stage, spent in call.seconds.items():
            self.record(_OURS + "stage_latency", int(spent * 1e6), model, call.api, stage)

    def loaded(self, path: str, status: str, seconds: float) -> None:
        """Counts an attempt to load a version: from which folder, with which status (success, fail), how long."""
        self.record(_LOADING + "load_attempt_count", 1, path, status)
        if status == "success":
            self.record(_LOADING + "load_latency", int(seconds * 1e6), path)

    def warmed_up(self, path: str, status: str, seconds: float, records: int) -> None:
        """Counts a warm-up: of the version in which folder, with which status (OK), how long, of how many records."""
        self.record(_SERVING + "model_warmup_latency", int(seconds * 1e6), path, status)
        self.record(_SERVING + "model_warmup_records_read", records, path, status)

    def batched(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Counts what session_batching.py tells, by the name that it has below batching_session."""
        self.record(_BATCHING + name, value, *labels.values())

    def values(self, names: Iterable[str]) -> Mapping[str, int]:
        """What the reload call reports of metrics: the first series of a counter, 0 for anything else."""
        counters = {family.name for family in FAMILIES if family.kind is Counter}
        return {name: self._first(name) if name in counters else 0 for name in names}

    def series(self) -> Iterator[tuple[str, str, Sequence[Sample]]]:
        """Every metric as Prometheus has it: name, kind (counter, gauge, histogram), and its samples."""
        for family in FAMILIES:
            samples = self._samples(family.name)
            touched = family.labels or family.kind is Gauge or any(sample.value for sample in samples)
            yield family.exposed_name, family.kind.__name__.lower(), samples if touched else ()
        for metric in self._process.collect():
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            yield name, metric.type, metric.samples

    def _samples(self, name: str) -> list[Sample]:
        """The samples of a metric, without the times at which prometheus_client made its series."""
        collected = (sample for metric in self._metrics[name].collect() for sample in metric.samples)
        return [sample for sample in collected if not sample.name.endswith("_created")]

    def _first(self, name: str) -> int:
        samples = sorted(self._samples(name), key=lambda sample: tuple(sample.labels.values()))
        return int(samples[0].value) if samples else 0


def _api(call: Call) -> str:
    if call.entrypoint == "GRPC":
        return call.api
    return call.api.lower() if call.api in _COUNTED else ""
