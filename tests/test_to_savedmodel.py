import datetime
import hashlib
import json
import re
import shutil

import pytest
import tensorflow as tf

from export import golden, to_savedmodel
from tests.artefacts import CLASSES, FEATURE_LAYERS, TEMPLATES
from vit22b import signature, version_window
from vit22b.checkpoint import load
from vit22b.signature import Manifest
from vit22b.tree import parameter_count


@pytest.fixture(scope="module")
def version(repository):
    return repository / "digits" / "1"


@pytest.fixture(scope="module")
def manifest(version):
    return Manifest.from_json((version / signature.MANIFEST_FILE).read_text())


def test_the_version_has_the_signatures_of_the_contract(version, manifest):
    signatures = tf.saved_model.load(str(version)).signatures
    contract = manifest.contract()
    assert set(signatures) == set(contract) == set(manifest.signatures)
    for name, expected in contract.items():
        inputs = {
            key: signature.Tensor(spec.dtype.name, tuple(spec.shape))
            for key, spec in signatures[name].structured_input_signature[1].items()
        }
        outputs = {
            key: signature.Tensor(spec.dtype.name, tuple(spec.shape))
            for key, spec in signatures[name].structured_outputs.items()
        }
        assert inputs == expected.inputs, name
        assert outputs == expected.outputs, name


def test_the_manifest_says_what_was_exported(version, manifest, tuned):
    trained = load(tuned)
    assert manifest.config == trained.description.config
    assert manifest.labels == trained.description.labels
    assert (manifest.step, manifest.source, manifest.weights) == (12, "params", "float32")
    assert manifest.batch_sizes == (1, 4, 8)
    assert manifest.platforms == ("cpu", "tpu", "cuda")
    assert manifest.feature_layers == FEATURE_LAYERS
    assert manifest.class_bank == signature.ClassBank(CLASSES, TEMPLATES, 3)
    assert manifest.golden == "recorded"
    assert manifest.versions["tensorflow"] == tf.__version__
    assert manifest.xla_call_module_version >= 9
    assert re.fullmatch(r"\d+\.\d+\.\d+", manifest.stablehlo_version)
    age = datetime.date.today() - datetime.date.fromisoformat(manifest.exported_on)
    assert age.days in (0, 1)
    assert manifest.loads_until == version_window.loads_until(manifest.versions["jax"]).isoformat()
    files = {p.relative_to(version).as_posix() for p in version.rglob("*") if p.is_file()}
    outside = {name for name in files if not name.startswith("assets.extra/")}
    assert set(manifest.hashes) == outside | {"tokenizer"}
    for name in outside:
        assert manifest.hashes[name] == hashlib.sha256((version / name).read_bytes()).hexdigest()


def test_describe_answers_the_manifest_but_for_the_hashes_and_the_tokenizer(version, manifest, tuned):
    described = tf.saved_model.load(str(version)).signatures["describe"]()
    values = json.loads(described["manifest"].numpy())
    assert values.pop("hashes") == {}
    written = json.loads(manifest.to_json())
    written.pop("hashes")
    assert values == written
    assert described["tokenizer"].numpy().decode() == load(tuned).description.tokenizer


def test_weights_are_variables_and_not_constants_of_the_graph(version, tuned):
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    stored = sum(
        tf.TensorShape(shape).num_elements()
        for name, shape in reader.get_variable_to_shape_map().items()
        if reader.get_variable_to_dtype_map()[name] == tf.float32
    )
    bank = len(CLASSES) * 128
    assert stored == parameter_count(load(tuned).params) + bank
    assert (version / "saved_model.pb").stat().st_size < 2 * stored  # bytes; the weights are four times as many


def test_there_is_a_golden_request_for_every_signature_and_batch_size(version, manifest):
    logs = golden.read(version / signature.WARMUP_FILE)
    seen = {
        (log.request.model_spec.signature_name, next(iter(log.request.inputs.values())).tensor_shape.dim[0].size)
        for log in logs
        if log.request.inputs
    }
    names = set(manifest.signatures) - {"describe"}
    assert seen == {(name, size) for name in names for size in (1, 4, 8)}
    assert all(log.response.outputs for log in logs)
    assert {log.request.model_spec.name for log in logs} == {"digits"}


def test_only_whole_versions_are_left_in_the_model_folder(repository):
    assert {p.name for p in (repository / "digits").iterdir()} == {"1"}


def test_an_existing_version_is_not_overwritten(repository, tuned, run_program, capsys):
    before = (repository / "digits" / "1" / signature.MANIFEST_FILE).read_bytes()
    arguments = ["--checkpoint", tuned, "--output", repository / "digits", "--version", 1]
    assert run_program(to_savedmodel.export, to_savedmodel.Settings, *arguments) == 2
    line = capsys.readouterr().err.strip()
    assert "exists already" in line
    assert "leave --version out to write 2" in line
    assert (repository / "digits" / "1" / signature.MANIFEST_FILE).read_bytes() == before


def test_a_checkpoint_without_model_json_is_refused_by_name(tuned, tmp_path, run_program, capsys):
    shutil.copytree(tuned / "checkpoints" / "12", tmp_path / "work" / "checkpoints" / "12")
    (tmp_path / "work" / "checkpoints" / "12" / "model" / "model.json").unlink()
    arguments = ["--checkpoint", tmp_path / "work", "--output", tmp_path / "models" / "m"]
    assert run_program(to_savedmodel.export, to_savedmodel.Settings, *arguments) == 2
    line = capsys.readouterr().err.strip()
    assert str(tmp_path / "work" / "checkpoints" / "12") in line
    assert "has no model/model.json" in line
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--platforms", "cpu", "ppu"], "expected some of cpu, tpu, cuda"),
        (["--platforms", "tpu"], "add cpu, or leave them out by --golden none"),
        (["--platforms", "tpu", "--golden", "none", "--classes", "cat"], "--classes are embedded on a CPU; add cpu"),
        (["--feature_layers", "1", "4"], "this tower has layers 0 to 3, and no [4]"),
        (["--feature_layers", "1", "1"], "expected each layer once"),
        (["--classes", "cat", "Cat"], "are one class; leave one out"),
        (["--version", "-1"], "--version is -1; expected 0 or more"),
        (
            ["--weights", "int8", "--golden", "none", "--max_error", "0.1"],
            "--max_error: these weights are not measured",
        ),
        (["--numerics_images", "photos"], "--numerics_images: these weights are not measured, since they are float32"),
        (["--weights", "int8", "--numerics_images", "no-such"], "no-such is missing; expected a folder of images"),
        (["--weights_from", "ema"], "has no ema: the run that wrote it kept none"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(flags, message, tuned, tmp_path, run_program, capsys):
    arguments = ["--checkpoint", tuned, "--output", tmp_path / "models" / "m", *flags]
    assert run_program(to_savedmodel.export, to_savedmodel.Settings, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_version_for_another_chip_is_written_without_having_run(tuned, tmp_path, run_program, capsys):
    arguments = ["--checkpoint", tuned, "--output", tmp_path / "m", "--platforms", "tpu", "--golden", "none"]
    arguments += ["--batching", "none", "--weights", "bfloat16"]
    assert run_program(to_savedmodel.export, to_savedmodel.Settings, *arguments) == 0
    assert "bfloat16 against float32: not measured, since --golden none" in capsys.readouterr().out
    version = tmp_path / "m" / "1"
    manifest = Manifest.from_json((version / signature.MANIFEST_FILE).read_text())
    assert (manifest.golden, manifest.platforms, manifest.batching) == ("none", ("tpu",), False)
    assert not (version / signature.WARMUP_FILE).exists()
    assert b"BatchFunction" not in (version / "saved_model.pb").read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_sizes", "4", "2"], "--batch_sizes are (4, 2); expected ascending numbers from 1"),
        (["--batch_threads", "0"], "--batch_threads is 0; expected 1 or more"),
    ],
)
def test_a_wrong_number_is_told_as_the_flags_are_read(flags, message, run_program, capsys):
    assert run_program(to_savedmodel.export, to_savedmodel.Settings, "--checkpoint", "a", "--output", "b", *flags) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
