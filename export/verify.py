"""Runs a version's golden requests and compares the answers with the recorded ones.

    .venv/bin/python export/verify.py build/models/digits/1

prints a table (signature, batch, largest absolute error, smallest cosine, milliseconds) and exits 1 where an answer is
off. With --record it writes the answers instead: the export runs that in a process of its own, which loads the version
as a server does and not from what the exporting process has in memory.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import tensorflow as tf
import tyro
from rich.console import Console
from rich.table import Table
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from export import golden
from vit22b import program, signature
from vit22b.signature import Manifest


@dataclasses.dataclass(frozen=True)
class Settings:
    """Verify a SavedModel version against its golden requests."""

    version: Annotated[Path, tyro.conf.Positional]
    """The version's folder."""
    record: bool = False
    """Write the answers as the golden ones instead of comparing them."""
    model: str = ""
    """With --record: name in the recorded requests; the name of the folder above if not given."""
    tolerance: float = 1e-4
    """Largest absolute error of a float."""


@dataclasses.dataclass(frozen=True)
class Row:
    """How one answer compares with the recorded one."""

    signature: str
    batch: int
    max_abs_error: float
    cosine: float
    milliseconds: float


def verify(settings: Settings) -> int:
    """Records or compares; the exit code."""
    signatures, manifest, tokenizer = load(settings.version)
    path = settings.version / signature.WARMUP_FILE
    if settings.record:
        logs = [
            prediction_log_pb2.PredictLog(request=request, response=golden.answer(signatures, request))
            for request in golden.requests(
                manifest, tokenizer, settings.model or settings.version.absolute().parent.name
            )
        ]
        golden.write(path, logs)
        print(f"recorded {len(logs)} golden answers")
        return 0
    rows = list(compare(signatures, golden.read(path)))
    good = all(row.max_abs_error <= settings.tolerance for row in rows)
    _print(rows, settings.tolerance)
    return 0 if good else 1


def load(version: Path) -> tuple[golden.Signatures, Manifest, str]:
    """Loads a version in this process: its signatures, its manifest and its tokenizer.json.

    Raises:
        ValueError: it is no version that vit22b exported.
    """
    if not (version / "saved_model.pb").is_file():
        raise ValueError(f"{version} is no SavedModel version: it has no saved_model.pb; name <repository>/<model>/<n>")
    signatures = tf.saved_model.load(str(version)).signatures
    if signature.DESCRIBE not in signatures:
        raise ValueError(f"{version} has no signature {signature.DESCRIBE!r}: vit22b did not export it")
    described = signatures[signature.DESCRIBE]()
    manifest = Manifest.from_json(described[signature.MANIFEST].numpy())
    return signatures, manifest, described[signature.TOKENIZER].numpy().decode()


def compare(signatures: golden.Signatures, logs: list[prediction_log_pb2.PredictLog]) -> Iterator[Row]:
    """Runs every golden request; one row each."""
    for log in logs:
        golden.answer(signatures, log.request)  # the first run compiles, the second is timed
        begin = time.perf_counter()
        response = golden.answer(signatures, log.request)
        milliseconds = (time.perf_counter() - begin) * 1e3
        inputs = list(log.request.inputs.values())
        batch = inputs[0].tensor_shape.dim[0].size if inputs else 0
        error, cosine = difference(log.response, response)
        yield Row(log.request.model_spec.signature_name, batch, error, cosine, milliseconds)


def difference(expected: predict_pb2.PredictResponse, got: predict_pb2.PredictResponse) -> tuple[float, float]:
    """Largest absolute error of all outputs and smallest cosine of two rows; inf and 0 where they differ in kind."""
    error, cosine = 0.0, 1.0
    if set(expected.outputs) != set(got.outputs):
        return float("inf"), 0.0
    for key in expected.outputs:
        a, b = tf.make_ndarray(expected.outputs[key]), tf.make_ndarray(got.outputs[key])
        if a.shape != b.shape or a.dtype != b.dtype or (a.dtype.kind != "f" and not np.array_equal(a, b)):
            return float("inf"), 0.0
        if a.dtype.kind == "f":
            error = max(error, float(np.abs(a - b).max()))
            lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
            cosine = min(cosine, float(np.min(np.sum(a * b, axis=-1) / np.maximum(lengths, 1e-30))))
    return (error, cosine) if np.isfinite(error) else (float("inf"), 0.0)


def _print(rows: list[Row], tolerance: float) -> None:
    table = Table("signature", "batch", "max abs error", "cosine", "ms")
    for row in rows:
        style = None if row.max_abs_error <= tolerance else "bold red"
        figures = f"{row.max_abs_error:.2e}", f"{row.cosine:.7f}", f"{row.milliseconds:.1f}"
        table.add_row(row.signature, str(row.batch or "-"), *figures, style=style)
    Console().print(table)
    bad = sum(row.max_abs_error > tolerance for row in rows)
    print(f"{len(rows) - bad} of {len(rows)} golden answers within {tolerance:g}")


if __name__ == "__main__":
    program.run(verify, Settings, __doc__)
