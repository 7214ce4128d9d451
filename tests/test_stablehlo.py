import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow as tf
from jax import export
from safetensors.flax import load_file

from export import stablehlo, to_savedmodel, variables
from export.batching import Batching
from export.stablehlo import Format
from export.towers import towers
from tests.towers import PREPROCESS, ZERO_SHOT, random_params
from vit22b import signature
from vit22b.description import Description
from vit22b.sharding import make_mesh
from vit22b.signature import Manifest
from vit22b.tree import leaves, map_leaves

ROOT = Path(__file__).parents[1]
DESCRIPTION = Description(ZERO_SHOT, PREPROCESS, tokenizer="{}")
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 3), np.uint8)


def parts(tower):
    return {part: random_params(ZERO_SHOT)[part] for part in tower.parts}


def reread(exported):
    return export.deserialize(bytes(exported.serialize()))


@pytest.fixture(scope="module")
def plain():
    return {name: reread(one) for name, one in stablehlo.programs(DESCRIPTION, "float32", ("cpu", "tpu")).items()}


@pytest.mark.parametrize(("name", "batches"), [("embed", [1, 3, 8]), ("features", [3]), ("logits", [3]), ("text", [3])])
def test_a_program_that_was_written_computes_what_its_tower_does(plain, name, batches):
    tower = towers(DESCRIPTION)[name]
    (spec,) = tower.contract.inputs.values()
    ids = np.random.default_rng(1).integers(0, 300, (8, *spec.shape[1:]), np.int32)
    x = PIXELS if spec.dtype == "uint8" else ids
    expected = jax.jit(tower.function)(parts(tower), x)
    for batch in batches:
        found = plain[name].call(parts(tower), x[:batch])
        assert found.keys() == expected.keys() == tower.contract.outputs.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value[:batch], atol=1e-5)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_program_of_a_mesh_computes_the_same_on_its_devices(weights):
    mesh = Format("stablehlo", "4x2").abstract_mesh
    (exported, whole) = (
        stablehlo.programs(DESCRIPTION, weights, ("cpu",), mesh=where)["embed"] for where in (mesh, None)
    )
    exported = reread(exported)
    assert exported.nr_devices == 8
    tree = variables.from_params(random_params(ZERO_SHOT), DESCRIPTION, weights).tree["image"]
    params = {"image": map_leaves(lambda _, leaf: leaf.numpy(), tree)}
    # As a program does that has the file and nothing else.
    shardings = exported.in_shardings_jax(make_mesh(4, 2))
    (placed, pixels), _ = jax.device_put(((params, PIXELS), {}), jax.tree.unflatten(exported.in_tree, shardings))
    found = exported.call(placed, pixels)["embedding"]
    tolerance = 1e-5 if weights == "float32" else 2e-3  # bfloat16 sums in another order
    np.testing.assert_allclose(found, whole.call(params, PIXELS)["embedding"], atol=tolerance)
    kernel = placed["image"]["blocks"]["query"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size, "no device had all of it"
    with pytest.raises(ValueError, match="was exported for 8 devices and is called in a context with 1"):
        exported.call(params, PIXELS)


def test_weights_are_no_part_of_a_program(plain):
    size = sum(leaf.nbytes for leaf in leaves(random_params(ZERO_SHOT)).values())
    assert all(len(one.mlir_module_serialized) < size / 50 for one in plain.values())


@pytest.mark.parametrize("slab", [stablehlo.SLAB_BYTES, 100])
def test_the_library_reads_the_weights_as_they_were(slab, monkeypatch, tmp_path):
    monkeypatch.setattr(stablehlo, "SLAB_BYTES", slab)
    random = np.random.default_rng(0)
    tensors = {
        "a/kernel": tf.Variable(random.standard_normal((5, 3, 7)).astype(np.float32)),
        "a/rounded": tf.Variable(tf.cast(random.standard_normal((4, 33)), tf.bfloat16)),
        "a/quantised": tf.Variable(random.integers(-127, 128, (9, 2)).astype(np.int8)),
        "scalar": tf.Variable(np.float32(0.5)),
        "array": random.standard_normal((3,)).astype(np.float32),
    }
    with (tmp_path / "weights.safetensors").open("wb") as file:
        stablehlo.write_weights(file, tensors)
    read = load_file(tmp_path / "weights.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        value = tensor.numpy() if isinstance(tensor, tf.Variable) else tensor
        assert read[name].dtype == value.dtype, name
        np.testing.assert_array_equal(np.asarray(read[name]), value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mesh": "1x8"}, "cannot be served from a SavedModel: TensorFlow runs a tower on one device"),
        ({"format": "stablehlo", "mesh": "8"}, "--mesh is '8'; expected DATAxMODEL, such as 1x8"),
        ({"format": "stablehlo", "mesh": "0x8"}, "--mesh is '0x8'; expected DATAxMODEL"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Format(**settings)


def test_a_mesh_that_divides_no_parameter_is_refused():
    mesh = Format("stablehlo", "1x3").abstract_mesh
    with pytest.raises(ValueError, match="does not divide over 3 devices of the mesh axis 'model'"):
        stablehlo.programs(DESCRIPTION, "float32", ("cpu",), mesh=mesh)


def test_batching_is_of_a_savedmodel(tmp_path):
    settings = to_savedmodel.Settings(
        tmp_path, tmp_path / "m", format=Format("stablehlo"), batching=Batching(sizes=(1, 4))
    )
    with pytest.raises(ValueError, match=r"--batch_sizes .* a StableHLO program takes any batch: leave them out"):
        to_savedmodel.export(settings)


@pytest.fixture(scope="module")
def version(tuned, artefacts):
    settings = to_savedmodel.Settings(
        checkpoint=tuned,
        output=artefacts / "jax" / "digits",
        format=Format("stablehlo"),
    )
    to_savedmodel.export(settings)
    return settings.output / "1"


def test_a_version_is_whole_and_says_what_it_is(version, repository):
    assert sorted(path.name for path in version.parent.iterdir()) == ["1"]
    manifest = Manifest.from_json((version / signature.MANIFEST_FILE).read_text())
    assert (manifest.format, manifest.mesh, manifest.golden) == ("stablehlo", None, "none")
    contract = manifest.contract()
    assert tuple(contract) == manifest.signatures == ("embed_pixels", "features", "logits_pixels", "embed_text")
    assert list(contract.values()) == [tower.contract for tower in towers(DESCRIPTION).values()]
    other = Manifest.from_json((repository / "digits" / "1" / signature.MANIFEST_FILE).read_text())
    assert manifest.space_id == other.space_id
    files = {path.name for path in version.iterdir() if path.is_file()}
    assert files == {*(f"{name}.stablehlo" for name in stablehlo.SIGNATURES), "weights.safetensors", "tokenizer.json"}
    assert manifest.hashes.keys() == files | {"tokenizer"}


def test_the_loader_of_the_page_embeds_as_the_savedmodel_does(version, repository, tmp_path):
    page = (ROOT / "docs" / "stablehlo.md").read_text()
    (loader,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    assert len([line for line in loader.splitlines() if line]) <= 10
    np.save(tmp_path / "pixels.npy", PIXELS[:3])
    script = f"import numpy as np\npixels = np.load('pixels.npy')\n{loader}\nnp.save('vectors.npy', vectors)"
    (tmp_path / "version").symlink_to(version)
    # In a process that can import nothing of ours.
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, env=environment, check=True)
    served = tf.saved_model.load(str(repository / "digits" / "1")).signatures["embed_pixels"]
    expected = served(pixels=tf.constant(PIXELS[:3]))["embedding"].numpy()
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target", "tpu", "--chip", "v5e", "--format", "stablehlo"], "--target tpu is of a SavedModel"),
        (["--classes", "one", "two", "--format", "stablehlo"], "--classes are a signature of a SavedModel"),
        (
            ["--weights", "int8", "--max_error", "0.1", "--format", "stablehlo"],
            "--max_error: these weights are not measured",
        ),
        (["--mesh", "1x8"], "cannot be served from a SavedModel"),
    ],
)
def test_settings_of_the_other_format_are_refused(flags, message, tuned, tmp_path, run_program, capsys):
    arguments = ["--checkpoint", tuned, "--output", tmp_path / "m", *flags]
    assert run_program(to_savedmodel.export, to_savedmodel.Settings, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
