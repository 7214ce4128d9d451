import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from flax import nnx

from export import import_weights, to_savedmodel
from tests import foreign
from vit22b.checkpoint import load
from vit22b.model import abstract, normalise
from vit22b.tokenizer import Tokenizer
from vit22b.tree import parameter_count


@pytest.fixture
def run(run_program, capsys):
    def run(*arguments):
        code = run_program(import_weights.convert, import_weights.Settings, *arguments)
        return code, capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP as its users have it, its import, and our tree of it."""
    folder = tmp_path_factory.mktemp("clip")
    source, params = foreign.write_clip(folder / "theirs")
    import_weights.convert(import_weights.Settings(source=source, output=folder / "ours"))
    return source, folder / "ours", params


def test_an_imported_checkpoint_describes_itself(clip):
    source, output, params = clip
    trained = load(output)
    description = trained.description
    assert description.config == foreign.CLIP
    assert description.source == {"checkpoint": str(source), "family": "clip", "space_id": trained.space_id}
    assert (description.preprocess.resolution, description.preprocess.crop) == (8, "center")
    assert description.preprocess.mean == (0.485, 0.456, 0.406)
    tokenizer = Tokenizer.from_json(description.tokenizer)
    assert (tokenizer.length, tokenizer.pad_id) == (foreign.CLIP.text.length, 1)
    np.testing.assert_array_equal(trained.params["text"]["token_embedding"], params["text"]["token_embedding"])


@pytest.mark.slow
def test_an_imported_model_is_exported_and_its_signatures_answer_what_jax_does(clip, tmp_path, run_program):
    _, output, _ = clip
    arguments = ("--checkpoint", output, "--output", tmp_path / "models" / "clip", "--batch_sizes", 1, 2)
    assert run_program(to_savedmodel.export, to_savedmodel.Settings, *arguments) == 0
    signatures = tf.saved_model.load(str(tmp_path / "models" / "clip" / "1")).signatures
    trained = load(output)
    network = nnx.merge(abstract(trained.description.config)[0], trained.params)
    token_ids = Tokenizer.from_json(trained.description.tokenizer).encode(foreign.WORDS)
    texts = signatures["embed_text"](token_ids=tf.constant(token_ids))["embedding"].numpy()
    np.testing.assert_allclose(texts, network.embed_text(jnp.asarray(token_ids))["embedding"], atol=1e-5)
    pixels = np.random.default_rng(3).integers(256, size=(2, 8, 8, 3)).astype(np.uint8)
    images = signatures["embed_pixels"](pixels=tf.constant(pixels))["embedding"].numpy()
    expected = network.embed_image(normalise(jnp.asarray(pixels), trained.description.preprocess))["embedding"]
    np.testing.assert_allclose(images, expected, atol=1e-5)
    assert images.shape == texts.shape == (2, 10)


def test_labels_come_from_the_config_or_from_a_file(run, tmp_path):
    tensors, config, params = foreign.vit()
    source = foreign.write(tmp_path / "vit", tensors, config=config, preprocessor_config=foreign.SQUARE)
    code, out = run("--source", source, "--output", tmp_path / "a")
    assert code == 0
    assert f"vit, {parameter_count(params):,} parameters, 8 px, head" in out.out
    assert load(tmp_path / "a").description.labels == ("cat", "dog", "bird")
    (tmp_path / "labels.txt").write_text("Katze\nHund\n")
    code, out = run("--source", source, "--output", tmp_path / "b", "--labels", tmp_path / "labels.txt")
    assert code == 2
    assert "has 2 names, the head 3 classes" in out.err


def test_what_is_skipped_is_left_out_and_nothing_is_written_on_an_error(run, tmp_path):
    tensors, config, _ = foreign.dino()
    tensors["decoder.weight"] = np.zeros((3, 4), np.float32)
    source = foreign.write(tmp_path / "dino", tensors, config=config)
    arguments = ("--source", source, "--output", tmp_path / "ours", "--pixels", "imagenet")
    code, out = run(*arguments)
    assert code == 2
    assert "left over: decoder.weight (3, 4)" in out.err
    assert not (tmp_path / "ours").exists()
    assert run(*arguments, "--skip", "decoder.*")[0] == 0
    assert load(tmp_path / "ours").description.preprocess.crop_fraction == 0.875
    code, out = run(*arguments, "--skip", "decoder.*")
    assert code == 2
    assert "has checkpoints already" in out.err


def test_what_is_skipped_has_the_names_of_the_file(run, tmp_path):
    tensors, config, _ = foreign.dino()
    tensors = {f"dinov2.{name}": tensor for name, tensor in tensors.items()}
    tensors["dinov2.decoder.weight"] = np.zeros((3, 4), np.float32)
    source = foreign.write(tmp_path / "dino", tensors, config=config, preprocessor_config=foreign.SQUARE)
    arguments = ("--source", source, "--output", tmp_path / "ours")
    assert "left over: dinov2.decoder.weight (3, 4)" in run(*arguments)[1].err
    code, out = run(*arguments, "--skip", "decoder.*")
    assert code == 2
    assert "--skip decoder.* is the name of no tensor" in out.err
    assert run(*arguments, "--skip", "dinov2.decoder.*")[0] == 0


def test_what_a_killed_import_left_is_in_nobodys_way(run, tmp_path):
    tensors, config, _ = foreign.dino()
    source = foreign.write(tmp_path / "dino", tensors, config=config, preprocessor_config=foreign.SQUARE)
    left = tmp_path / "ours" / "checkpoints" / "0.orbax-checkpoint-tmp"
    (left / "params").mkdir(parents=True)
    assert run("--source", source, "--output", tmp_path / "ours")[0] == 0
    assert not left.exists()
    assert load(tmp_path / "ours").description.config == foreign.DINO


def test_a_tokenizer_is_padded_on_the_side_that_its_files_say(run, clip, tmp_path):
    source = shutil.copytree(clip[0], tmp_path / "clip")
    change(source / "tokenizer_config.json", padding_side="left")
    assert run("--source", source, "--output", tmp_path / "ours")[0] == 0
    right, left = (Tokenizer.from_json(load(of).description.tokenizer) for of in (clip[1], tmp_path / "ours"))
    (ids,), (other,) = right.encode(["cat"]), left.encode(["cat"])
    kept = ids[: list(ids).index(right.pad_id) + 1]  # the end of a text and the padding are one token
    np.testing.assert_array_equal(other[-len(kept) :], kept)
    assert len(kept) < len(ids)
    assert set(other[: -len(kept)]) == {left.pad_id}


def test_a_head_of_another_form_can_be_left_out(run, tmp_path):
    tensors, config, _ = foreign.dino()
    tensors |= {"classifier.weight": np.zeros((5, 32), np.float32), "classifier.bias": np.zeros(5, np.float32)}
    tensors = {name if name.startswith("classifier") else f"dinov2.{name}": tensor for name, tensor in tensors.items()}
    source = foreign.write(tmp_path / "dino", tensors, config=config, preprocessor_config=foreign.SQUARE)
    arguments = ("--source", source, "--output", tmp_path / "ours")
    assert "classifier.weight is (5, 32), in our layout (32, 5); head/kernel takes (16, 5)" in run(*arguments)[1].err
    assert run(*arguments, "--skip", "classifier.*")[0] == 0
    assert load(tmp_path / "ours").description.config == foreign.DINO


def test_another_resolution_resamples_the_positions(run, tmp_path):
    tensors, config, params = foreign.dino()
    source = foreign.write(tmp_path / "dino", tensors, config=config, preprocessor_config=foreign.SQUARE)
    assert run("--source", source, "--output", tmp_path / "ours", "--resolution", 16)[0] == 0
    trained = load(tmp_path / "ours")
    assert trained.description.preprocess.resolution == trained.description.config.image.resolution == 16
    table = trained.params["image"]["position_embedding"]
    assert table.shape == (17, 16)
    np.testing.assert_array_equal(table[0], params["image"]["position_embedding"][0])


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "says how images are prepared"),
        (("--pixels", "imagenet", "--resolution", "10"), "no multiple of the patch 4; take 8 or 12"),
        (
            ("--pixels", "imagenet", "--architecture", "vit_tiny"),
            "--architecture is vit_tiny, but a model of Hugging Face",
        ),
        (("--pixels", "imagenet", "--family", "clip"), "has no tensor visual_projection.weight"),
    ],
)
def test_a_wrong_setting_is_an_error_with_the_remedy(flags, message, run, tmp_path):
    tensors, config, _ = foreign.dino()
    source = foreign.write(tmp_path / "dino", tensors, config=config)
    code, out = run("--source", source, "--output", tmp_path / "ours", *flags)
    assert code == 2
    assert message in out.err


def test_what_is_not_offered_is_refused_by_name(run, tmp_path):
    tensors, config, _ = foreign.dino()
    source = foreign.write(tmp_path / "dino", tensors, config=config)
    arguments = ("--source", source, "--output", tmp_path / "ours", "--pixels", "imagenet")
    change(source / "config.json", use_swiglu_ffn=True)
    assert "SwiGLU" in run(*arguments)[1].err
    change(source / "config.json", model_type="dinov3_vit")
    assert "is a dinov3_vit, which is not offered" in run(*arguments)[1].err
    (source / "config.json").unlink()
    assert "give --heads" in run(*arguments)[1].err
    timm, described, _ = foreign.timm()
    source = foreign.write(tmp_path / "timm", timm, config={**described, "architecture": "vit_base_patch16_rpn_224"})
    assert "blocks of another form" in run("--source", source, "--output", tmp_path / "ours")[1].err


def test_a_source_that_is_no_weights_is_an_error(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no weights" in run("--source", tmp_path / "empty", "--output", tmp_path / "o")[1].err
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "is a pickle" in run("--source", tmp_path / "empty", "--output", tmp_path / "o")[1].err
    (tmp_path / "x.safetensors").write_bytes(b"no")
    assert "is damaged" in run("--source", tmp_path / "x.safetensors", "--output", tmp_path / "o")[1].err
    (tmp_path / "x.npz").write_bytes(b"no")
    assert "is damaged" in run("--source", tmp_path / "x.npz", "--output", tmp_path / "o")[1].err
    assert "does not exist" in run("--source", tmp_path / "gone.npz", "--output", tmp_path / "o")[1].err
    np.savez(tmp_path / "y.npz", weight=np.zeros(3))
    assert "is of no known family" in run("--source", tmp_path / "y.npz", "--output", tmp_path / "o")[1].err


def test_a_text_tower_without_its_tokenizer_is_an_error(run, clip, tmp_path):
    source = shutil.copytree(clip[0], tmp_path / "clip")
    arguments = ("--source", source, "--output", tmp_path / "ours")
    (source / "tokenizer_config.json").unlink()
    assert run(*arguments)[0] == 0  # the file's own padding tells the token
    change(source / "tokenizer.json", padding=None)
    arguments = ("--source", source, "--output", tmp_path / "other")
    assert "names no token for padding" in run(*arguments)[1].err
    (source / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in run(*arguments)[1].err
