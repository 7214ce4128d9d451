"""The version window: whether this machine's TensorFlow takes the programs of a SavedModel version.

Between SavedModel and server on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client:
export/verify.py and the embedded server ask here before they load anything, since TensorFlow itself says it at the
first run only. A program is StableHLO inside the op XlaCallModule, and both have versions of their own.
"""

import contextlib
import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import tensorflow as tf
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

# The highest XlaCallModule version that a TensorFlow takes (kVersionMaximumSupported in its xla_call_module_loader.h).
_MAXIMA = {"2.19": 9, "2.20": 10, "2.21": 10}
# JAX promises to load an exported program in what is built in the next six months (docs.jax.dev, "Exporting and
# serialization"). The days are of JAX's change log, for the releases that constraints.txt has had.
_GUARANTEE = datetime.timedelta(days=180)
_RELEASED = {"0.10.2": datetime.date(2026, 6, 17)}
_NOTICE = datetime.timedelta(days=30)
_REEXPORT = ".venv/bin/python export/to_savedmodel.py --checkpoint WORKDIR --output"
_MAGIC = b"ML\xefR"  # MLIR bytecode begins with it, then a version as one varint, then its producer's name and a zero


@dataclasses.dataclass(frozen=True)
class Program:
    """What a graph has for XLA.

    Attributes:
        version: of the op XlaCallModule.
        stablehlo: the version of StableHLO that the program is written in, for instance "1.15.0"; "" if not told.
        serialized: the program, portable StableHLO.
    """

    version: int
    stablehlo: str
    serialized: bytes

    @classmethod
    def of(cls, version: int, serialized: bytes) -> Self:
        """The program, with the version of StableHLO that its first bytes name."""
        header, _, _ = serialized[:64].partition(b"\0")
        _, _, stablehlo = header.partition(b"StableHLO_v") if header.startswith(_MAGIC) else (b"", b"", b"")
        return cls(version, stablehlo.decode("ascii", "replace"), serialized)


def programs(graph: graph_pb2.GraphDef) -> list[Program]:
    """The programs of a graph and of the functions in its library; none in a graph that JAX had no part in."""
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return [Program.of(node.attr["version"].i, node.attr["module"].s) for node in nodes if node.op == "XlaCallModule"]


def read(version: Path) -> meta_graph_pb2.MetaGraphDef:
    """The graph of a version, with the names and the aliases that go with it.

    Raises:
        ValueError: it has none, or a damaged one.
    """
    path = version / "saved_model.pb"
    if not path.is_file():
        raise ValueError(f"{version} is no SavedModel version: it has no saved_model.pb; name <repository>/<model>/<n>")
    try:
        return saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs[0]
    except (DecodeError, IndexError) as error:
        raise ValueError(f"{path} is damaged; copy the version again, or export the model again") from error


def maximum() -> int | None:
    """The highest version of the op that this TensorFlow takes, or None where that cannot be found out."""
    # Not documented by TensorFlow, but it is what jax2tf asks before it exports.
    with contextlib.suppress(ImportError, AttributeError):
        from tensorflow.compiler.tf2xla.python import xla

        return int(xla.call_module_maximum_supported_version())
    return _MAXIMA.get(_minor(tf.__version__))


def problem(graph: graph_pb2.GraphDef, written_with: Mapping[str, str] | None = None) -> str:
    """Why this TensorFlow cannot run a graph's programs, and what to do about it; "" where it can.

    Args:
        graph: of the version.
        written_with: package -> version that the export ran on, as in the manifest, for the remedy.
    """
    limit, reader = maximum(), _reader()
    for program in programs(graph):
        if limit is not None and program.version > limit:
            cause = f"takes XlaCallModule up to version {limit}, and the programs here have {program.version}"
            return _text(cause, written_with or {})
        if reader is not None:
            try:
                reader.deserialize_portable_artifact_str(program.serialized)
            except ValueError:
                known = reader.get_current_version()
                cause = f"knows StableHLO {known} and cannot read the programs here: {program.stablehlo or '?'}"
                return _text(cause, written_with or {})
    return ""


def loads_until(jax_version: str) -> datetime.date:
    """The day until which JAX's releases promise to load what this one exports.

    Of a release whose day is not known here, it is counted from today, which is late rather than early.
    """
    return _RELEASED.get(jax_version, datetime.date.today()) + _GUARANTEE


def expiry(version: Path, until: str, written_with: Mapping[str, str]) -> str:
    """What to say of a version whose promise ends within 30 days, or has ended; "" of any other.

    Args:
        version: its folder.
        until: an ISO date, as the manifest has it.
        written_with: package -> version that the export ran on.

    Raises:
        ValueError: `until` is no date.
    """
    if datetime.date.fromisoformat(until) >= datetime.date.today() + _NOTICE:
        return ""
    by = f" jax {written_with['jax']}" if "jax" in written_with else " the jax"
    return (
        f"{version} was written by{by}, and JAX promises to load it in what is built until {until}: before it goes to "
        f"a later TensorFlow, export it again with a newer jax: {_REEXPORT} {version.parent}"
    )


def _text(cause: str, written_with: Mapping[str, str]) -> str:
    by = ", ".join(f"{name} {written_with[name]}" for name in ("jax", "tensorflow") if name in written_with)
    runs = written_with.get("tensorflow", f"newer than {tf.__version__}")
    return (
        f"TensorFlow {tf.__version__} {cause}{f' (written by {by})' if by else ''}; serve it with TensorFlow {runs}, "
        "or export it again with a vit22b whose constraints.txt has this TensorFlow: "
        f"{_REEXPORT} REPOSITORY/MODEL"
    )


def _reader() -> Any:
    """TensorFlow's own reader of StableHLO; a build without it leaves the judgement to the first run."""
    try:
        from tensorflow.compiler.mlir.stablehlo import stablehlo
    except ImportError:
        return None
    return stablehlo


def _minor(release: str) -> str:
    return ".".join(release.split(".")[:2])
