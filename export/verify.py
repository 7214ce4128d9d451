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

import tensorflow as tf
import tyro
from rich.console import Console
from rich.table import Table
from tensorflow_serving.apis import prediction_log_pb2

from export import golden
from export.version_folder import sha256
from vit22b import program, signature
from vit22b.difference import TOLERANCE, Difference, difference
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
    tolerance: float = TOLERANCE
    """Largest error of an output, as a part of the greatest value recorded for it."""


@dataclasses.dataclass(frozen=True)
class Row:
    """How one answer compares with the recorded one."""

    signature: str
    batch: int
    difference: Difference
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
    check_hashes(settings.version)
    rows = list(compare(signatures, golden.read(path), settings.tolerance))
    _print(rows, settings.tolerance)
    return 1 if any(row.difference.problem for row in rows) else 0


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


def check_hashes(version: Path) -> None:
    """Compares the files of a version with the hashes in its manifest.

    Raises:
        ValueError: there is no manifest, or a file is missing or changed.
    """
    path = version / signature.MANIFEST_FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing: vit22b did not export this version, or a copy left it out")
    for name, expected in Manifest.from_json(path.read_text()).hashes.items():
        file = version / name
        if name != signature.TOKENIZER and not (file.is_file() and sha256(file) == expected):
            raise ValueError(f"{file} is {'changed' if file.exists() else 'missing'} since the export; copy it again")


def compare(
    signatures: golden.Signatures, logs: list[prediction_log_pb2.PredictLog], tolerance: float
) -> Iterator[Row]:
    """Runs every golden request; one row each."""
    for log in logs:
        golden.answer(signatures, log.request)  # the first run compiles, the second is timed
        begin = time.perf_counter()
        response = golden.answer(signatures, log.request)
        milliseconds = (time.perf_counter() - begin) * 1e3
        inputs = list(log.request.inputs.values())
        batch = inputs[0].tensor_shape.dim[0].size if inputs else 0
        found = difference(golden.outputs(log.response), golden.outputs(response), tolerance)
        yield Row(log.request.model_spec.signature_name, batch, found, milliseconds)


def _print(rows: list[Row], tolerance: float) -> None:
    table = Table("signature", "batch", "max abs error", "cosine", "ms")
    for row in rows:
        style = "bold red" if row.difference.problem else None
        found = row.difference
        figures = f"{found.max_abs_error:.2e}", f"{found.cosine:.7f}", f"{row.milliseconds:.1f}"
        table.add_row(row.signature, str(row.batch or "-"), *figures, style=style)
    console = Console()
    console.print(table)
    for row in rows:
        if row.difference.problem:
            print(f"{row.signature}, batch {row.batch}: {row.difference.problem}")
    good = sum(not row.difference.problem for row in rows)
    print(f"{good} of {len(rows)} golden answers within {tolerance:g} of their greatest value")


if __name__ == "__main__":
    program.run(verify, Settings, __doc__, failures=(tf.errors.OpError,))
