"""A checkpoint and its served export answer alike, to every question that a protocol asks."""

import jax.numpy as jnp
import numpy as np
import pytest

from train.checkpoint_tower import CheckpointTower
from train.served_tower import ServedTower
from train.tower_opening import open_tower
from vit22b.checkpoint import load
from vit22b.embedder import embed_files
from vit22b.execution import Execution
from vit22b.folder import read_folder

QUESTIONS = ("embeddings", "logits")


@pytest.fixture(scope="module")
def images(digits):
    return [record.path for record in read_folder(digits / "heldout").records][:70]


@pytest.fixture(scope="module")
def checkpoint(tuned):
    with CheckpointTower(tuned) as tower:
        yield tower


@pytest.fixture(scope="module")
def behind_server(served):
    with open_tower(f"grpc://{served.address}/{served.model}") as tower:
        yield tower


def test_a_checkpoint_embeds_as_the_embedder_does(checkpoint, tuned, images):
    np.testing.assert_allclose(checkpoint.embeddings(images), embed_files(load(tuned), images), atol=1e-6)


@pytest.mark.parametrize("question", QUESTIONS)
def test_checkpoint_and_server_answer_alike(checkpoint, behind_server, images, question):
    here, there = getattr(checkpoint, question)(images), getattr(behind_server, question)(images)
    np.testing.assert_allclose(there, here, atol=1e-5 * np.abs(here).max())
    assert here.std(axis=0).max() > 0


def test_features_tokens_and_layers_are_alike(checkpoint, behind_server, images):
    layers = behind_server.layers
    here = checkpoint.features(images, tokens=True, layers=layers)
    there = behind_server.features(images, tokens=True, layers=layers)
    assert layers
    assert here.layers.keys() == there.layers.keys() == set(layers)
    for one, other in (
        (here.pooled, there.pooled),
        (here.tokens, there.tokens),
        *zip(here.layers.values(), there.layers.values(), strict=True),
    ):
        assert one.shape[0] == len(images)
        np.testing.assert_allclose(other, one, atol=1e-5 * np.abs(one).max())


def test_texts_and_pixels_are_alike(checkpoint, behind_server):
    texts = ["an image of the number seven.", "a nine"]
    np.testing.assert_allclose(behind_server.texts(texts), checkpoint.texts(texts), atol=1e-6)
    pixels = np.random.default_rng(0).integers(256, size=(3, 28, 28, 3)).astype(np.uint8)
    np.testing.assert_allclose(behind_server.pixel_logits(pixels), checkpoint.pixel_logits(pixels), atol=1e-4)


def test_both_say_what_they_are(checkpoint, behind_server, tuned):
    assert checkpoint.space_id == behind_server.space_id == load(tuned).space_id
    assert checkpoint.labels == behind_server.labels
    assert checkpoint.config == behind_server.config
    assert checkpoint.checkpoint.parent.parent == tuned.absolute()
    assert behind_server.checkpoint is None
    assert behind_server.fingerprint is None


def test_an_image_is_answered_by_its_bytes_as_by_its_path(checkpoint, images):
    mixed = [images[0], images[1].read_bytes(), images[2]]
    np.testing.assert_array_equal(checkpoint.embeddings(mixed), checkpoint.embeddings(images[:3]))


def test_answers_of_another_dtype_have_another_fingerprint(checkpoint, tuned):
    with CheckpointTower(tuned, Execution(dtype=jnp.bfloat16)) as other:
        assert other.fingerprint == f"{checkpoint.fingerprint}-bfloat16"


def test_a_fingerprint_has_the_towers_and_the_head(checkpoint, pretrained):
    with CheckpointTower(pretrained) as other:
        # Locked-image tuning keeps the head, and adds a text tower: another space.
        (space, head), (other_space, other_head) = (each.fingerprint.split("-") for each in (checkpoint, other))
    assert (space, other_space) == (checkpoint.space_id, other.space_id)
    assert space != other_space
    assert head == other_head


def test_bad_images_are_named(checkpoint, images, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"bad\.png is not an image"):
        checkpoint.embeddings([images[0], tmp_path / "bad.png"])
    with pytest.raises(ValueError, match="image 1 is not an image"):
        checkpoint.embeddings([images[0], b"no image"])
    with pytest.raises(ValueError, match="there are no images"):
        checkpoint.features([])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("grpc://localhost/model", "no served model"),
        ("grpc://localhost:80", "no served model"),
        ("grpc://localhost:80/model/latest", "no served model"),
        ("s3:bucket/run", "'s3' is no kind of source"),
        ("checkpoint:", "names no folder"),
        ("checkpoint:/nowhere", "no checkpoint in /nowhere"),
    ],
)
def test_a_source_that_is_none_is_refused_with_what_is_expected(source, message):
    with pytest.raises(ValueError, match=message):
        open_tower(source)


def test_a_model_that_is_replaced_under_its_number_ends_the_evaluation(served, images):
    with ServedTower(served.address, served.model) as tower:
        tower.space_id = "another"  # as if what was described had been another model
        with pytest.raises(ValueError, match="was replaced by another model while it was judged"):
            tower.embeddings(images[:2])
        with pytest.raises(ValueError, match="was replaced by another model while it was judged"):
            tower.logits(images[:2])
