import json
import shutil
import sys

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from benchmarks import compatibility


@pytest.fixture
def environments(tmp_path):
    """A folder with one environment, that of the tests, so that nothing is installed."""
    python = tmp_path / "compatibility" / f"tensorflow-{tf.__version__}" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (python.parents[1] / ".installed").touch()
    return tmp_path / "compatibility"


@pytest.mark.slow
def test_what_an_environment_says_is_reported_word_by_word(repository, environments, tmp_path, run_program, capsys):
    version = shutil.copytree(repository / "digits" / "1", tmp_path / "digits" / "1")
    path = version / "assets.extra" / "vit22b.json"
    manifest = json.loads(path.read_text())
    model = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    functions = model.meta_graphs[0].graph_def.library.function
    next(node for f in functions for node in f.node_def if node.op == "XlaCallModule").attr["version"].i = 99
    (version / "saved_model.pb").write_bytes(model.SerializeToString())
    del manifest["hashes"]["saved_model.pb"]
    path.write_text(json.dumps(manifest))
    arguments = [version, "--tensorflow", tf.__version__, "--output", environments]
    assert run_program(compatibility.main, compatibility.Settings, *arguments) == 0
    report = json.loads((environments / "report.json").read_text())
    (row,) = report["rows"]
    assert (row["tensorflow"], row["exit_code"]) == (tf.__version__, 1)
    assert row["says"].startswith(f"error: {version}: TensorFlow {tf.__version__} takes XlaCallModule up to version ")
    assert report["exported_with"]["tensorflow"] == tf.__version__
    assert str(environments / "report.json") in capsys.readouterr().out
