"""Runs a version's golden requests and compares the answers with the recorded ones.

    .venv/bin/python export/verify.py build/models/digits/1
    .venv/bin/python export/verify.py build/models/digits/1 --address localhost:8500 --model digits

The first loads the version in TensorFlow here, the second asks a live server, ours or TensorFlow Serving, for the same
answers. Both print a table (signature, batch, largest absolute error, smallest cosine, milliseconds) and exit with 1
where an answer is off. With --record the answers are written: the export runs that in a process of its own, which
loads the version as a server does and not from what the exporting process has in memory. JAX is not needed.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import tensorflow as tf
import tyro
from rich.table import Table
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from export import artefact, golden
from export.live import LiveServer
from export.version_folder import rewrite
from vit22b import program, signature, version_window
from vit22b.difference import Difference, difference
from vit22b.errors import VitError
from vit22b.signature import Manifest

_TIMEOUT = 60.0

Answer = Callable[[predict_pb2.PredictRequest], predict_pb2.PredictResponse]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Verify a SavedModel version against its golden requests."""

    folder: Annotated[Path | None, tyro.conf.Positional] = None
    """The version's folder. It has the golden requests, which no server gives out: --address needs it too."""
    record: bool = False
    """Write the answers as the golden ones instead of comparing them."""
    replace: bool = False
    """With --record: also where there are golden answers already, which are lost."""
    address: str = ""
    """host:port of a server to ask, instead of loading the version here."""
    model: str = ""
    """Name of the model at the server, or in what --record writes; the name of the folder above if not given."""
    version: int | None = None
    """With --address: the version to ask for; the server's choice, its latest, if not given."""
    label: str = ""
    """With --address: the label of the version to ask for."""
    timeout: float = _TIMEOUT
    """With --address: seconds that one answer may take."""
    ca: Path | None = None
    """With --address: PEM file of the authority that signed the server's certificate; connects by TLS."""
    tolerance: float | None = None
    """Largest error of an output, as a part of the greatest value recorded for it; the manifest's if not given."""

    def __post_init__(self) -> None:
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"--tolerance is {self.tolerance}; expected a number above 0, such as 1e-4")
        if self.address:
            if self.record:
                raise ValueError("--record writes what the version answers here; leave --address out")
            return
        given = {"version": self.version is not None, "label": self.label, "ca": self.ca is not None}
        given["timeout"] = self.timeout != _TIMEOUT
        if names := [f"--{name}" for name, there in given.items() if there]:
            raise ValueError(f"{', '.join(names)} only with --address, which names the server to ask")


@dataclasses.dataclass(frozen=True)
class Row:
    """How one answer compares with the recorded one."""

    signature: str
    batch: int
    difference: Difference
    milliseconds: float


def verify(settings: Settings) -> int:
    """Records or compares; the exit code."""
    folder = settings.folder
    if folder is None:
        raise ValueError("no folder is given; name the version, <repository>/<model>/<n>, whose requests are to be run")
    model = settings.model or folder.absolute().parent.name
    if settings.record:
        return record(folder, model, settings.replace)
    manifest = artefact.read_manifest(folder)
    if manifest.format != "savedmodel":
        artefact.check_hashes(folder, manifest)
        count = len(manifest.hashes) - 1  # one is the tokenizer's
        print(f"{count} files are as they were exported. Nothing was run: a {manifest.format} version has no golden")
        print("answers, and no TensorFlow runs it (docs/stablehlo.md)")
        return 0
    logs = _golden(folder, manifest)
    tolerance = manifest.tolerance if settings.tolerance is None else settings.tolerance
    if settings.address:
        at = {"version": settings.version, "label": settings.label, "timeout": settings.timeout, "ca": settings.ca}
        with LiveServer(settings.address, model, **at) as server:
            number = server.check_space(manifest, folder)
            print(f"asking version {number} of {model} at {settings.address}")
            rows = list(compare(server.answer, logs, tolerance))
    else:
        artefact.check_hashes(folder, manifest)
        signatures, _, _ = artefact.load(folder)
        # XLA compiles at the first run of each.
        rows = list(compare(lambda request: golden.answer(signatures, request), logs, tolerance, untimed=1))
    _print(rows, tolerance)
    if soon := version_window.expiry(folder, manifest.loads_until, manifest.versions):
        print(f"warning: {soon}", file=sys.stderr)
    return 1 if any(row.difference.problem for row in rows) else 0


def record(folder: Path, model: str, replace: bool = False) -> int:
    """Writes the answers of this machine as the golden ones.

    Args:
        folder: of the version.
        model: the name that it will be served under.
        replace: write over those that are there.
    """
    manifest = artefact.read_manifest(folder)
    artefact.require_savedmodel(folder, manifest)
    artefact.check_hashes(folder, manifest)  # the answers of a damaged copy would pass for the model's
    if (folder / signature.WARMUP_FILE).is_file() and not replace:
        raise ValueError(f"{folder} has golden answers already; compare with them, or write others by --replace")
    signatures, manifest, tokenizer = artefact.load(folder)
    logs = [
        prediction_log_pb2.PredictLog(request=request, response=golden.answer(signatures, request))
        for request in golden.requests(manifest, tokenizer, model)
    ]
    rewrite(folder / signature.WARMUP_FILE, lambda path: golden.write(path, logs))
    written = artefact.read_manifest(folder)
    if written.golden == "none":
        text = dataclasses.replace(written, golden="recorded").to_json()
        rewrite(folder / signature.MANIFEST_FILE, lambda path: path.write_text(text))
    print(f"recorded {len(logs)} golden answers")
    return 0


def compare(
    answer: Answer, logs: list[prediction_log_pb2.PredictLog], tolerance: float, untimed: int = 0
) -> Iterator[Row]:
    """Runs every golden request; one row each.

    Args:
        answer: runs a request.
        logs: the requests with their golden answers.
        tolerance: see vit22b/difference.py.
        untimed: runs of each request before the one that is timed.
    """
    for log in logs:
        for _ in range(untimed):
            answer(log.request)
        begin = time.perf_counter()
        response = answer(log.request)
        milliseconds = (time.perf_counter() - begin) * 1e3
        found = difference(golden.outputs(log.response), golden.outputs(response), tolerance)
        yield Row(log.request.model_spec.signature_name, golden.rows(log.request), found, milliseconds)


def _golden(folder: Path, manifest: Manifest) -> list[prediction_log_pb2.PredictLog]:
    if manifest.golden == "none":
        raise ValueError(
            f"{folder} was written with --golden none and has no golden answers; record them on a machine that can run "
            f"it: .venv/bin/python export/verify.py {folder} --record"
        )
    logs = golden.read(folder / signature.WARMUP_FILE)
    golden.require_complete(logs, manifest)
    return logs


def _print(rows: list[Row], tolerance: float) -> None:
    table = Table("signature", "batch", "max abs error", "cosine", "ms")
    for row in rows:
        style = "bold red" if row.difference.problem else None
        found = row.difference
        figures = f"{found.max_abs_error:.2e}", f"{found.cosine:.7f}", f"{row.milliseconds:.1f}"
        table.add_row(row.signature, str(row.batch or "-"), *figures, style=style)
    program.table_console().print(table)
    for row in rows:
        if row.difference.problem:
            print(f"{row.signature}, batch {row.batch}: {row.difference.problem}")
    good = sum(not row.difference.problem for row in rows)
    print(f"{good} of {len(rows)} golden answers within {tolerance:g} of their greatest value")


if __name__ == "__main__":
    program.run(verify, Settings, __doc__, failures=(tf.errors.OpError, VitError, artefact.WindowError))
