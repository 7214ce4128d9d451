import shutil

import numpy as np
import pytest
import tensorflow as tf

from export import golden, verify
from vit22b.signature import MANIFEST_FILE, WARMUP_FILE


@pytest.fixture
def copy(repository, tmp_path):
    return shutil.copytree(repository / "digits" / "1", tmp_path / "digits" / "1")


def test_a_version_passes_its_own_golden_requests(repository, run_program, capsys):
    assert run_program(verify.verify, verify.Settings, repository / "digits" / "1") == 0
    assert "25 of 25 golden answers within 0.0001" in capsys.readouterr().out


def test_another_answer_fails_and_is_named(copy, run_program, capsys):
    logs = golden.read(copy / WARMUP_FILE)
    target = next(log for log in logs if log.request.model_spec.signature_name == "embed_text")
    value = np.array(tf.make_ndarray(target.response.outputs["embedding"]))
    value[0, 0] += 0.01
    target.response.outputs["embedding"].CopyFrom(tf.make_tensor_proto(value))
    golden.write(copy / WARMUP_FILE, logs[logs.index(target) :][:1])
    assert run_program(verify.verify, verify.Settings, copy) == 1
    out = capsys.readouterr().out
    assert "embed_text, batch 1: output embedding: max abs error 0.01" in out
    assert "0 of 1 golden answers" in out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: (v / WARMUP_FILE).unlink(), "has no golden requests; export the model again"),
        (lambda v: (v / WARMUP_FILE).write_bytes(b"junk"), "is damaged"),
        (lambda v: (v / "saved_model.pb").unlink(), "is no SavedModel version"),
        (lambda v: (v / MANIFEST_FILE).unlink(), "vit22b.json is missing"),
        (lambda v: (v / "fingerprint.pb").write_bytes(b"?"), "fingerprint.pb is changed since the export"),
        (lambda v: (v / "fingerprint.pb").unlink(), "fingerprint.pb is missing since the export"),
    ],
)
def test_a_damaged_version_is_told_in_one_line(damage, message, copy, run_program, capsys):
    damage(copy)
    assert run_program(verify.verify, verify.Settings, copy) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_savedmodel_of_somebody_else_is_refused(tmp_path, run_program, capsys):
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([None], tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.f)
    assert run_program(verify.verify, verify.Settings, tmp_path / "1") == 2
    assert "vit22b did not export it" in capsys.readouterr().err


def test_variables_that_are_gone_are_told_in_one_line(copy, run_program, capsys):
    shutil.rmtree(copy / "variables")
    (copy / "variables").mkdir()
    failures = (tf.errors.OpError,)
    assert run_program(verify.verify, verify.Settings, copy, failures=failures) == 1
    assert capsys.readouterr().err.startswith("error: ")
