"""The metrics as the text that Prometheus reads, in the form in which TensorFlow Serving writes it.

Beside the way SavedModel -> server -> client, over monitoring.py; the REST port has it. There are no HELP lines, braces
stand even where there are no labels, a metric without series has its TYPE line alone, and names are in order.
"""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.samples import Sample

from serving.monitoring import Monitoring

CONTENT_TYPE = "text/plain"
PATH = "/monitoring/prometheus/metrics"

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_PARTS = ("_bucket", "_sum", "_count")  # of a histogram, in their order


def text(monitoring: Monitoring) -> str:
    """What the server has counted so far, in lines that end with one."""
    return "".join(
        f"{line}\n" for name, kind, samples in sorted(monitoring.series()) for line in _lines(name, kind, samples)
    )


def _lines(name: str, kind: str, samples: Sequence[Sample]) -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    parts = [(_suffix(name, sample) if kind == "histogram" else "", sample) for sample in samples]
    for suffix, sample in sorted(parts, key=lambda part: (_series(part[1]), _PARTS.index(part[0]) if part[0] else 0)):
        yield f"{name}{suffix}{{{_labels(sample.labels)}}} {_number(sample.value)}"


def _suffix(name: str, sample: Sample) -> str:
    return sample.name.removeprefix(name)


def _series(sample: Sample) -> tuple[str, ...]:
    """What the samples of one series have in common; the buckets of one stay in their order."""
    return tuple(value for label, value in sample.labels.items() if label != "le")


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(
        f'{name}="{_limit(value) if name == "le" else value.translate(_ESCAPES)}"' for name, value in labels.items()
    )


def _limit(value: str) -> str:
    """A bucket's limit, with six digits."""
    return value if value == "+Inf" else f"{float(value):.6g}"


def _number(value: float) -> str:
    # TensorFlow Serving cuts a sum to six digits, after which its rate over a minute is 0 or far too high.
    return str(int(value)) if float(value).is_integer() else repr(float(value))
