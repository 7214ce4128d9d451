"""Small SavedModels for the tests of the server, each written once in a run."""

import atexit
import functools
import importlib.util
import shutil
import tempfile
from pathlib import Path

import tensorflow as tf


@functools.cache
def _root() -> Path:
    root = tempfile.mkdtemp(prefix="small-models-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return Path(root)


@functools.cache
def plus(version: int) -> Path:
    """A SavedModel with y = x / 2 + version, and a signature that holds a run for as long as a test wants.

    `wait` writes the file `<gate>.waiting`, and answers y = version once the file `<gate>` exists.
    """
    module = tf.Module()
    module.slope, module.offset = tf.Variable(0.5), tf.Variable(float(version))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def line(x):
        return {"y": module.slope * x + module.offset}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="gate")])
    def wait(gate):
        tf.io.write_file(gate + ".waiting", "")
        (found,) = tf.while_loop(lambda found: tf.equal(found, 0), lambda _: [tf.size(tf.io.matching_files(gate))], [0])
        return {"y": module.offset + 0.0 * tf.cast(found, tf.float32)}

    @tf.function(input_signature=[])
    def describe():
        return {"text": tf.constant(b"no input, and a zero at the end\0")}

    module.functions = [line, wait, describe]
    signatures = {"serving_default": line, "wait": wait, "describe": describe}
    tf.saved_model.save(module, str(_root() / f"plus-{version}"), signatures=signatures)
    return _root() / f"plus-{version}"


@functools.cache
def half_plus(version: int) -> Path:
    """The conformance cases' y = x / 2 + version + 1, with signatures of every method."""
    spec = importlib.util.spec_from_file_location("make_models", Path(__file__).parent / "conformance/make_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.half_plus(str(_root()), version, version + 1)
    return _root() / "half_plus" / str(version)


def put(model: Path, base_path: Path, version: int | str) -> Path:
    """Makes a model a version below a base path, in one rename, as the exporter does."""
    base_path.mkdir(exist_ok=True)
    staged = Path(shutil.copytree(model, base_path / f"{version}.partial"))
    return staged.rename(base_path / str(version))
