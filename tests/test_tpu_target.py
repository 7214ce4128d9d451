"""What an export for TPU hosts has, and the programs in it as the TPU's compiler takes them. Nothing runs on a TPU."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from jax.sharding import SingleDeviceSharding
from tensorflow.core.protobuf import saved_model_pb2

from export import artefact, to_savedmodel, tpu_memory, tpu_target, xla_modules
from export.batching import Batching
from export.towers import towers
from export.tpu_target import Target, activation_bytes, converter_options
from vit22b import quantised, signature, topology
from vit22b.chips import GIB, tpu
from vit22b.config import ModelConfig, vit
from vit22b.description import Description
from vit22b.preprocess import Preprocess
from vit22b.signature import Manifest

TOWERS = ["embed_tower", "features_tower", "logits_tower", "text_tower"]
G = ModelConfig(vit("G"))
WHOLE = ModelConfig(vit("22b"))


@pytest.fixture(scope="module")
def version(tuned, artefacts):
    settings = to_savedmodel.Settings(
        checkpoint=tuned,
        output=artefacts / "tpu" / "digits",
        batching=Batching(sizes=(1, 4), timeout_micros=2000),
        target=Target("tpu", "v5e"),
        golden="none",
    )
    with pytest.MonkeyPatch.context() as patch:  # the tests marked tpu are those that ask the compiler
        patch.setattr(topology, "has_compiler", lambda: False)
        to_savedmodel.export(settings)
    return settings.output / "1"


def options_proto():
    """The fields of the converter's ConverterOptionsV2 that we write, with their types in its public definition."""
    file = descriptor_pb2.FileDescriptorProto(name="options.proto", package="t", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    tpu_function = file.message_type.add(name="TpuFunction")
    tpu_function.field.add(name="function_alias", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    batch = file.message_type.add(name="BatchOptionsV2")
    names = ("num_batch_threads", "max_batch_size", "batch_timeout_micros")
    for number, name in enumerate(names, start=1):
        batch.field.add(name=name, number=number, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    batch.field.add(name="allowed_batch_sizes", number=4, type=field.TYPE_INT32, label=field.LABEL_REPEATED)
    batch.field.add(name="max_enqueued_batches", number=5, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    options = file.message_type.add(name="ConverterOptionsV2")
    state = options.enum_type.add(name="State")
    for number, name in enumerate(("DEFAULT", "ENABLED", "DISABLED")):
        state.value.add(name=name, number=number)
    for name, number, message in (("tpu_functions", 1, "TpuFunction"), ("batch_options", 100, "BatchOptionsV2")):
        kind = {"type": field.TYPE_MESSAGE, "type_name": f".t.{message}", "label": field.LABEL_REPEATED}
        options.field.add(name=name, number=number, **kind)
    kind = {"type": field.TYPE_ENUM, "type_name": ".t.ConverterOptionsV2.State", "label": field.LABEL_OPTIONAL}
    options.field.add(name="bfloat16_optimization", number=201, **kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ConverterOptionsV2"))


def test_the_options_are_those_of_the_converter(version):
    parsed = text_format.Parse((version / tpu_target.OPTIONS_FILE).read_text(), options_proto()())
    assert [function.function_alias for function in parsed.tpu_functions] == TOWERS
    (batch,) = parsed.batch_options
    assert list(batch.allowed_batch_sizes) == [1, 4]
    assert (batch.max_batch_size, batch.batch_timeout_micros) == (4, 2000)
    assert (batch.num_batch_threads, batch.max_enqueued_batches) == (Batching.threads, Batching.queue)
    assert parsed.bfloat16_optimization == 2, "bfloat16 of a converter is another space than the manifest's"


def test_every_tower_has_one_alias_and_the_graph_no_batching(version):
    (graph,) = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes()).meta_graphs
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    assert sorted(graph.meta_info_def.function_aliases.values()) == TOWERS
    for name in graph.meta_info_def.function_aliases:
        ops = {node.op for node in functions[name].node_def}
        assert "XlaCallModule" in ops
        assert not ops & {"DecodeImage", "DecodeJpeg", "BatchFunction"}, "all of it can be on a TPU"
    nodes = [node.op for function in functions.values() for node in function.node_def]
    assert "BatchFunction" not in nodes


def test_the_manifest_has_the_target(version):
    manifest = Manifest.from_json((version / signature.MANIFEST_FILE).read_text())
    assert (manifest.target, manifest.batching, manifest.batch_sizes) == ("tpu", False, (1, 4))
    artefact.check_hashes(version, manifest)


def test_the_version_loads_here_as_well(version, repository):
    pixels = tf.random.stateless_uniform((3, 28, 28, 3), (1, 2), 0, 256, tf.int32)
    pixels = tf.cast(pixels, tf.uint8)
    found, other = (
        tf.saved_model.load(str(folder)).signatures["embed_pixels"](pixels=pixels)["embedding"].numpy()
        for folder in (version, repository / "digits" / "1")
    )
    assert abs(found - other).max() < 1e-5


@pytest.mark.parametrize("kind", ["graph", "none"])
def test_the_programs_of_a_version_are_found_behind_their_aliases(kind, version, repository):
    modules = xla_modules.read(version if kind == "none" else repository / "digits" / "1")
    assert set(TOWERS) <= modules.keys()
    for module in modules.values():
        assert module.platforms == ("cpu", "tpu", "cuda")
        assert module.version >= 9


def test_a_program_of_the_file_lowers_to_a_known_batch(version):
    lowered = xla_modules.read(version)["embed_tower"].lower(4, jax.devices()[0])
    assert lowered.out_info[0].shape == (4, 128)
    inputs = jax.tree.leaves(lowered.in_avals)
    assert inputs[-1].shape == (4, 28, 28, 3)


def test_a_program_for_other_platforms_is_refused(version):
    module = dataclasses.replace(xla_modules.read(version)["text_tower"], platforms=("tpu", "cuda"))
    with pytest.raises(ValueError, match="text_tower is lowered for tpu, cuda and not for cpu; export the model again"):
        module.lower(1, jax.devices()[0])


def test_what_is_no_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is no SavedModel version: it has no saved_model\.pb"):
        xla_modules.read(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ValueError, match="is damaged"):
        xla_modules.read(tmp_path)


@pytest.mark.parametrize(
    ("chip", "weights", "config", "message"),
    [
        ("v4", "bfloat16", WHOLE, r"41\.4 GiB of bfloat16 weights do not fit one v4 of 30\.75 GiB"),
        ("v4", "bfloat16", WHOLE, r"--weights int8 \(20\.7 GiB\) on v4, v5p, v6e"),
        ("v5e", "int8", WHOLE, r"--weights bfloat16 \(41\.4 GiB\) on v5p; --weights int8"),
        ("v5e", "int8", WHOLE, r"for several chips: --format stablehlo --mesh DATAxMODEL"),
    ],
)
def test_weights_that_do_not_fit_a_chip_are_refused_with_those_that_do(chip, weights, config, message):
    with pytest.raises(ValueError, match=re.compile(message, re.I)):
        Target("tpu", chip).require_fit(config, weights, (1, 8))


def test_without_the_compiler_the_closed_form_names_the_sizes_that_fit(monkeypatch):
    monkeypatch.setattr(topology, "has_compiler", lambda: False)
    Target("tpu", "v5e").require_fit(G, "bfloat16", (1, 8))
    with pytest.raises(ValueError, match=r"by the closed form \(libtpu.*\); those that fit are 1 8$"):
        Target("tpu", "v5e").require_fit(G, "bfloat16", (1, 8, 4096))
    monkeypatch.setattr(topology, "has_compiler", lambda: True)
    Target("tpu", "v5e").require_fit(G, "bfloat16", (1, 8, 4096))  # the compiler will say


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (tpu_memory.DOES_NOT_FIT, ValueError, "does not fit one v5e"),
        (1, ChildProcessError, "the TPU compiler could not be asked"),
    ],
)
def test_only_what_does_not_fit_is_told_so(code, error, message, monkeypatch, tmp_path):
    """The compiler is stood in for: it is not installed everywhere, and does not fail on demand."""
    monkeypatch.setattr(topology, "has_compiler", lambda: True)
    monkeypatch.setattr(tpu_target.apart, "run", lambda *_: code)
    with pytest.raises(error, match=message):
        Target("tpu", "v5e").prove(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "tpu", "chip": "v9"}, "no TPU 'v9'; expected one of v4, v5e, v5p, v6e"),
        ({"target": "tpu"}, "--target tpu needs --chip, the one that will serve: v4, v5e, v5p, v6e"),
        ({"chip": "v5e"}, "--chip v5e is of TPUs; add --target tpu"),
    ],
)
def test_a_chip_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Target(**settings)


def rows(*fit):
    row = tpu_memory.Row("m/1", "embed_tower", "v5e", 1, 2 * GIB, 2 * GIB, 0, 16 * GIB, True, "", 1.0)
    return [dataclasses.replace(row, batch=2**i, fits=fits) for i, fits in enumerate(fit)]


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        ((True, True, True), "every tower fits at every allowed batch size (1, 2, 4)"),
        ((True, True, False), "only batch sizes 1, 2 fit; export with --batch_sizes 1 2"),
        ((False, False), "no allowed batch size fits beside 2.00 GiB of weights; export with smaller --batch_sizes"),
    ],
)
def test_the_advice_names_what_fits(fit, message):
    assert message in tpu_memory.advice(rows(*fit))


def test_rows_of_other_models_stay_in_the_report(tmp_path):
    path = tmp_path / "tpu" / "export.json"
    others = [dataclasses.replace(row, model="other/1") for row in rows(True)]
    tpu_memory.write(path, others)
    tpu_memory.write(path, rows(True, True))
    tpu_memory.write(path, rows(True, False))
    found = [(row["model"], row["batch"], row["fits"]) for row in json.loads(path.read_text())["rows"]]
    assert found == [("other/1", 1, True), ("m/1", 1, True), ("m/1", 2, False)]


def test_the_weights_are_counted_as_they_are_stored(version):
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    floats = sum(tf.TensorShape(shapes[name]).num_elements() * 4 for name in shapes if dtypes[name] == tf.float32)
    assert floats <= tpu_memory.weight_bytes(version) <= floats + 64, "and the saver's counter"


@pytest.mark.tpu
@pytest.mark.parametrize("chip", ["v4", "v5e", "v6e"])
def test_the_programs_of_a_version_compile_for_a_tpu_at_every_allowed_size(chip, version):
    found = list(tpu_memory.measure(version, [tpu(chip)]))
    assert [(row.tower, row.batch) for row in found] == [(tower, size) for tower in TOWERS for size in (1, 4)]
    assert all(row.fits and not row.refusal for row in found)
    stored = tpu_memory.weight_bytes(version)
    assert all(row.arguments <= 2 * stored for row in found)
    assert max(row.arguments for row in found) > stored / 2


@pytest.mark.tpu
def test_an_export_that_the_compiler_refuses_is_not_written(tuned, tmp_path, run_program, capfd):
    """At a million images the tokens that features answers are more than a chip's memory."""
    arguments = ["--checkpoint", tuned, "--output", tmp_path / "m", "--golden", "none", "--target", "tpu"]
    arguments += ["--chip", "v5e", "--batch_sizes", 1, 2**20]
    assert run_program(to_savedmodel.export, to_savedmodel.Settings, *arguments) == 2
    told = capfd.readouterr()
    assert "only batch sizes 1 fit; export with --batch_sizes 1" in told.out
    assert "the version does not fit one v5e (see above), so it was not written" in told.err
    assert not list((tmp_path / "m").iterdir())


@pytest.mark.parametrize(
    ("size", "weights", "batch", "temporaries"),
    # libtpu 0.0.42.1, the tower embed: L on a v6e, 22b on a v5p and on a v6e
    [("L", "bfloat16", 32, 101 * 2**20), ("22b", "bfloat16", 8, 307e6), ("22b", "int8", 8, 483e6)],
)
def test_the_estimate_of_activations_is_near_and_not_below_what_the_compiler_found(size, weights, batch, temporaries):
    estimate = activation_bytes(ModelConfig(vit(size)), weights, batch)
    assert temporaries <= estimate <= 2 * temporaries


@pytest.mark.tpu
@pytest.mark.parametrize("chip", ["v4", "v6e"])
def test_the_whole_model_in_int8_fits_one_chip(chip):
    place = SingleDeviceSharding(topology.one_chip(tpu(chip)))
    tower = towers(Description(WHOLE, Preprocess(WHOLE.image.resolution)), "int8")["embed"]
    _, shapes = quantised.abstract(WHOLE, "int8")
    pixels = jax.ShapeDtypeStruct((8, 224, 224, 3), np.uint8)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), ({"image": shapes["image"]}, pixels)
    )
    found = topology.compile_lowered(jax.jit(tower.function).lower(*arguments))
    assert found.refusal == ""
    assert found.arguments + found.temporaries < 23e9


def test_a_name_in_the_options_is_written_as_it_is():
    text = converter_options({"b_tower", "a_tower"}, Batching(sizes=(1,)))
    assert text.index("a_tower") < text.index("b_tower")


def test_aliases_of_traces_that_are_in_no_graph_are_taken_out(repository, tmp_path):
    copy = shutil.copytree(repository / "digits" / "1", tmp_path / "1")
    before = xla_modules.aliases(copy)
    tpu_target.keep_living_aliases(copy)
    (graph,) = saved_model_pb2.SavedModel.FromString((copy / "saved_model.pb").read_bytes()).meta_graphs
    assert {alias: name for name, alias in graph.meta_info_def.function_aliases.items()} == before
    assert len(graph.meta_info_def.function_aliases) == len(before)
