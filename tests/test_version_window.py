import datetime
import re
import shutil

import pytest
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from export import artefact
from serving import saved_model
from serving.servable import Servable, ServableOptions
from tests.artefacts import ROOT
from vit22b import version_window

WRITTEN_WITH = {"jax": "9.9.9", "tensorflow": "9.8.7"}


@pytest.fixture
def version(repository, tmp_path):
    return shutil.copytree(repository / "digits" / "1", tmp_path / "digits" / "1")


def change(version, edit):
    """Edits every XlaCallModule of a written version, as if something newer had written it."""
    path = version / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    functions = model.meta_graphs[0].graph_def.library.function
    for node in (node for function in functions for node in function.node_def if node.op == "XlaCallModule"):
        edit(node)
    path.write_bytes(model.SerializeToString())


def newer_op(node):
    node.attr["version"].i = 99


def unknown_stablehlo(node):
    """Its producer's name is left whole, and behind it nothing that this reader knows."""
    node.attr["module"].s = node.attr["module"].s[:32].replace(b"StableHLO_v1", b"StableHLO_v9")


def test_what_this_tensorflow_exported_it_takes(repository):
    graph = version_window.read(repository / "digits" / "1").graph_def
    programs = version_window.programs(graph)
    assert len(programs) >= 4  # embed, features, logits, text
    assert {program.version for program in programs} == {version_window.maximum()}
    assert all(program.stablehlo.count(".") == 2 for program in programs)
    assert version_window.problem(graph) == ""


def test_the_table_agrees_with_what_tensorflow_says(monkeypatch):
    told = version_window.maximum()
    monkeypatch.delattr(xla, "call_module_maximum_supported_version")
    assert version_window.maximum() == told


def test_an_unknown_tensorflow_without_an_answer_leaves_it_to_the_first_run(version, monkeypatch):
    monkeypatch.delattr(xla, "call_module_maximum_supported_version")
    monkeypatch.setattr(tf, "__version__", "9.9.9")
    change(version, newer_op)
    assert version_window.problem(version_window.read(version).graph_def) == ""


def test_a_graph_that_jax_had_no_part_in_has_no_problem():
    assert version_window.problem(graph_pb2.GraphDef()) == ""


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (newer_op, r"takes XlaCallModule up to version \d+, and the programs here have 99"),
        (unknown_stablehlo, r"knows StableHLO [\d.]+ and cannot read the programs here: 9\.\d+\.\d+"),
    ],
)
def test_what_is_too_new_is_refused_before_it_is_loaded_with_the_remedy(version, edit, message):
    change(version, edit)
    text = version_window.problem(version_window.read(version).graph_def, WRITTEN_WITH)
    assert text.startswith(f"TensorFlow {tf.__version__} ")
    assert "(written by jax 9.9.9, tensorflow 9.8.7); serve it with TensorFlow 9.8.7" in text
    assert ".venv/bin/python export/to_savedmodel.py --checkpoint WORKDIR" in text
    with pytest.raises(artefact.WindowError, match=message):
        artefact.load(version)
    with pytest.raises(saved_model.WindowError, match=f"{version}: TensorFlow .* {message}"):
        Servable.load("digits", 1, version, ServableOptions())


@pytest.mark.parametrize(("days", "told"), [(-1, True), (29, True), (31, False)])
def test_a_promise_that_ends_soon_is_told_with_the_remedy(days, told, tmp_path):
    until = (datetime.date.today() + datetime.timedelta(days=days)).isoformat()
    text = version_window.expiry(tmp_path / "1", until, WRITTEN_WITH)
    assert bool(text) == told
    if told:
        assert (
            f"{tmp_path}/1 was written by jax 9.9.9, and JAX promises to load it in what is built until {until}" in text
        )
        assert text.endswith(f".venv/bin/python export/to_savedmodel.py --checkpoint WORKDIR --output {tmp_path}")


def test_the_promise_counts_from_the_release_of_the_jax_that_is_pinned():
    (pinned,) = re.findall(r"^jax==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    until = version_window.loads_until(pinned)
    assert until < datetime.date.today() + datetime.timedelta(days=180), "its release is not in version_window.py"
    assert version_window.loads_until("9.9.9") == datetime.date.today() + datetime.timedelta(days=180)


def test_what_is_no_version_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} is no SavedModel version"):
        version_window.read(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=f"{tmp_path}/saved_model.pb is damaged"):
        version_window.read(tmp_path)
