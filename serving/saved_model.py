"""A SavedModel version on disk, read into a runtime: its graph, its variables, its signatures.

The hop SavedModel -> server, in the steps and with the error texts of TensorFlow's C++ loader, which TensorFlow Serving
uses.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2

from serving.runtime import Runtime
from serving.status import not_found, of_file
from vit22b import version_window
from vit22b.signature import MANIFEST_FILE, Manifest

_INIT_OP = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")  # where TF1 models name their init op

# What a restore says of files that are cut, changed or missing.
_DAMAGE = (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.OutOfRangeError)

logger = logging.getLogger(__name__)


class WindowError(tf.errors.InvalidArgumentError):
    """The programs of a version are newer than TensorFlow here; they will be the next time too."""

    def __init__(self, message: str):
        super().__init__(None, None, message)


def read_meta_graph(path: Path, tags: frozenset[str]) -> meta_graph_pb2.MetaGraphDef:
    """The meta graph of a version that has exactly these tags.

    Raises:
        tf.errors.NotFoundError: no SavedModel there, or none with these tags.
        tf.errors.DataLossError: saved_model.pb is damaged.
        tf.errors.OpError: saved_model.pb cannot be read; see of_file.
    """
    file = path / "saved_model.pb"
    if not file.exists():
        text = "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        raise not_found(f"{text}`saved_model.pb`)\nSpecified file path: {path}")
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise tf.errors.DataLossError(None, None, f"Can't parse {file} as binary proto") from error
    except OSError as error:
        raise of_file(error) from error
    for meta_graph in model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == tags:
            return meta_graph
    raise not_found(
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(sorted(tags))} }}. "
        "To inspect available tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`",
    )


def restore(path: Path, meta_graph: meta_graph_pb2.MetaGraphDef, config: config_pb2.ConfigProto) -> Runtime:
    """A runtime with the version's graph, its variables restored and its initialisation done.

    A version without a variables/ directory is taken as one that has none; a run that needs one fails.

    Raises:
        tf.errors.OpError: the graph, the variables or the initialisation do not load.
    """
    runtime = Runtime(meta_graph.graph_def, config, meta_graph.meta_info_def.stripped_op_list)
    assets = {asset.tensor_info.name: _string(path / "assets" / asset.filename) for asset in meta_graph.asset_file_def}
    saver = meta_graph.saver_def
    variables = path / "variables" / "variables"
    with contextlib.ExitStack() as undo:
        undo.callback(runtime.close)
        if saver.restore_op_name and variables.with_suffix(".index").exists():
            with _naming(path):
                runtime.run({saver.filename_tensor_name: _string(variables), **assets}, [], [saver.restore_op_name])
        else:
            logger.info("The specified SavedModel has no variables; no checkpoints were restored: %s", path)
        if init_op := _init_op(meta_graph):
            runtime.run(assets, [], [init_op])
        undo.pop_all()
    return runtime


def check_window(path: Path, meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    """Refuses a version whose programs TensorFlow here cannot run, which TensorFlow would say at the first run only.

    Raises:
        WindowError: they are newer; the text has the remedy.
    """
    try:
        written_with = Manifest.from_json((path / MANIFEST_FILE).read_bytes()).versions
    except (OSError, ValueError):  # somebody else's version
        written_with = {}
    if problem := version_window.problem(meta_graph.graph_def, written_with):
        raise WindowError(f"{path}: {problem}")


def warn_of_expiry(path: Path) -> None:
    """Logs a warning if the version's program is near or past the date until which JAX promises to load it.

    The date is in the manifest that our exporter writes. A version without a manifest is somebody else's, and fine.
    """
    file = path / MANIFEST_FILE
    try:
        manifest = Manifest.from_json(file.read_bytes())
        soon = version_window.expiry(path, manifest.loads_until, manifest.versions)
    except FileNotFoundError:
        return
    except (ValueError, OSError) as error:
        logger.warning("Cannot read the manifest %s: %s", file, error)
        return
    if soon:
        logger.warning("%s", soon)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Logs which version it is that cannot be restored: TensorFlow's error, which is passed on as it is, does not."""
    try:
        yield
    except tf.errors.OpError as error:
        remedy = ""
        if isinstance(error, _DAMAGE):
            remedy = ". Its files are not what the export wrote: copy it again, under a new number, since this one is "
            remedy += f"not tried again; .venv/bin/python export/verify.py {path} names the file"
        logger.error("Cannot restore the variables of %s: %s%s", path, error.message.partition("\n")[0], remedy)
        raise


def _init_op(meta_graph: meta_graph_pb2.MetaGraphDef) -> str | None:
    if _INIT_OP in meta_graph.signature_def:
        return meta_graph.signature_def[_INIT_OP].outputs[_INIT_OP].name
    for collection in _INIT_COLLECTIONS:
        if collection in meta_graph.collection_def:
            return meta_graph.collection_def[collection].node_list.value[0]
    return None


def _string(path: Path) -> np.ndarray:
    return np.array(str(path).encode(), dtype=object)
