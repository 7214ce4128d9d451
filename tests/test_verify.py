import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from export import golden, verify
from tests.artefacts import ROOT
from vit22b.signature import MANIFEST_FILE, WARMUP_FILE, Manifest


@pytest.fixture
def copy(repository, tmp_path):
    return shutil.copytree(repository / "digits" / "1", tmp_path / "digits" / "1")


def test_a_version_passes_its_own_golden_requests(repository, run_program, capsys):
    assert run_program(verify.verify, verify.Settings, repository / "digits" / "1") == 0
    assert "34 of 34 golden answers within 0.0001" in capsys.readouterr().out


def test_another_answer_fails_and_is_named(copy, run_program, capsys):
    logs = golden.read(copy / WARMUP_FILE)
    target = next(log for log in logs if log.request.model_spec.signature_name == "embed_text")
    value = np.array(tf.make_ndarray(target.response.outputs["embedding"]))
    value[0, 0] += 0.01
    target.response.outputs["embedding"].CopyFrom(tf.make_tensor_proto(value))
    golden.write(copy / WARMUP_FILE, logs)
    assert run_program(verify.verify, verify.Settings, copy) == 1
    out = capsys.readouterr().out
    assert "embed_text, batch 1: output embedding: max abs error 0.01" in out
    assert f"{len(logs) - 1} of {len(logs)} golden answers" in out


def flip(path):
    """Changes one byte of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: (v / WARMUP_FILE).unlink(), "has no golden requests; export the model again"),
        (lambda v: (v / WARMUP_FILE).write_bytes(b"junk"), "is damaged"),
        (lambda v: (v / "saved_model.pb").unlink(), "is no SavedModel version"),
        (lambda v: (v / MANIFEST_FILE).unlink(), "vit22b.json is missing"),
        (lambda v: (v / "fingerprint.pb").write_bytes(b"?"), "fingerprint.pb is changed since the export"),
        (lambda v: flip(v / "variables" / "variables.data-00000-of-00001"), "data-00000-of-00001 is changed since"),
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
    assert "vit22b did not export this version" in capsys.readouterr().err


@pytest.mark.slow
def test_variables_that_are_gone_are_told_in_one_line(copy, run_program, capsys):
    shutil.rmtree(copy / "variables")
    (copy / "variables").mkdir()
    assert run_program(verify.verify, verify.Settings, copy, "--record") == 2
    assert re.match(
        rf"error: {copy}/variables/\S+ is missing since the export; copy it again\n$", capsys.readouterr().err
    )


def change(version, **fields):
    path = version / MANIFEST_FILE
    path.write_text(dataclasses.replace(Manifest.from_json(path.read_text()), **fields).to_json())


def test_the_tolerance_is_the_manifests_unless_another_is_given(copy, run_program, capsys):
    logs = golden.read(copy / WARMUP_FILE)
    target = next(log for log in logs if log.request.model_spec.signature_name == "embed_text")
    value = np.array(tf.make_ndarray(target.response.outputs["embedding"]))
    target.response.outputs["embedding"].CopyFrom(tf.make_tensor_proto(value * np.float32(1.001)))
    golden.write(copy / WARMUP_FILE, logs)
    change(copy, tolerance=0.01)
    assert run_program(verify.verify, verify.Settings, copy) == 0
    assert f"{len(logs)} of {len(logs)} golden answers within 0.01" in capsys.readouterr().out
    assert run_program(verify.verify, verify.Settings, copy, "--tolerance", "1e-4") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--version", "2"], "--version only with --address, which names the server to ask"),
        (["--label", "canary", "--timeout", "5"], "--label, --timeout only with --address"),
        (["--ca", "ca.pem"], "--ca only with --address"),
        (["--record", "--address", "localhost:8500"], "--record writes what the version answers here"),
        (["--tolerance", "-1"], "--tolerance is -1.0; expected a number above 0"),
        (["--tolerance", "0"], "--tolerance is 0.0; expected a number above 0"),
        (["--tolerance", "nan"], "--tolerance is nan; expected a number above 0"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message, run_program, capsys):
    assert run_program(verify.verify, verify.Settings, "a/1", *flags) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.slow
def test_a_version_without_golden_answers_gets_them_later(copy, run_program, capsys):
    (copy / WARMUP_FILE).unlink()
    change(copy, golden="none", signatures=("embed_text", "describe"))
    assert run_program(verify.verify, verify.Settings, copy) == 2
    assert f"export/verify.py {copy} --record" in capsys.readouterr().err
    assert run_program(verify.verify, verify.Settings, copy, "--record", "--model", "cats") == 0
    assert Manifest.from_json((copy / MANIFEST_FILE).read_text()).golden == "recorded"
    assert {log.request.model_spec.name for log in golden.read(copy / WARMUP_FILE)} == {"cats"}
    assert {path.name for path in (copy / MANIFEST_FILE).parent.iterdir()} == {
        "README.md",
        "vit22b.json",
        Path(WARMUP_FILE).name,
    }
    assert run_program(verify.verify, verify.Settings, copy) == 0


def test_a_golden_file_that_ends_early_is_refused(copy, run_program, capsys):
    """At the end of a record, where it still reads well."""
    path = copy / WARMUP_FILE
    logs = golden.read(path)
    golden.write(path, logs[:-1])
    assert run_program(verify.verify, verify.Settings, copy) == 2
    assert "the golden requests have none with an answer for signature" in capsys.readouterr().err


def test_the_answers_of_a_damaged_copy_are_not_recorded(copy, run_program, capsys):
    shard = next((copy / "variables").glob("*.data-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert run_program(verify.verify, verify.Settings, copy, "--record") == 2
    assert f"{shard} is changed since the export" in capsys.readouterr().err


def test_a_program_that_is_old_is_only_warned_of(copy, run_program, capsys):
    change(copy, loads_until="2020-01-01")
    assert run_program(verify.verify, verify.Settings, copy) == 0
    assert re.search(
        rf"warning: {copy} was written by jax .* until 2020-01-01: .* export it again", capsys.readouterr().err
    )


def test_the_other_format_is_named(copy, run_program, capsys):
    change(copy, format="stablehlo")
    assert run_program(verify.verify, verify.Settings, copy, "--record") == 2
    assert "has the format stablehlo" in capsys.readouterr().err
    assert run_program(verify.verify, verify.Settings, copy) == 0
    assert "files are as they were exported. Nothing was run" in capsys.readouterr().out
    flip(copy / "saved_model.pb")
    assert run_program(verify.verify, verify.Settings, copy) == 2
    assert "saved_model.pb is changed since the export" in capsys.readouterr().err


def test_the_folder_of_a_model_is_no_version(repository, run_program, capsys):
    assert run_program(verify.verify, verify.Settings, repository / "digits") == 2
    assert f"name a version of it, such as {repository / 'digits'}/" in capsys.readouterr().err


def test_a_cut_manifest_is_named(copy, run_program, capsys):
    path = copy / MANIFEST_FILE
    path.write_text(path.read_text()[:200])
    assert run_program(verify.verify, verify.Settings, copy) == 2
    assert f"{path}: not a vit22b manifest" in capsys.readouterr().err


def test_golden_answers_are_not_written_over_unasked(copy, run_program, capsys):
    before = (copy / WARMUP_FILE).read_bytes()
    assert run_program(verify.verify, verify.Settings, copy, "--record") == 2
    assert "has golden answers already; compare with them, or write others by --replace" in capsys.readouterr().err
    assert (copy / WARMUP_FILE).read_bytes() == before


def test_it_needs_neither_jax_nor_orbax():
    """It runs where a server runs, in an older environment with TensorFlow and little else."""
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['jax', 'jaxlib', 'flax', 'orbax', 'optax', 'jaxtyping']))\n"
        "import export.verify\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
