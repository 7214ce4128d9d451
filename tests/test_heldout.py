import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.towers import PREPROCESS, random_params
from train.classifier import scores
from train.evaluators.heldout import HeldOut
from train.input import multi_hot
from vit22b import model
from vit22b.config import ModelConfig, vit
from vit22b.execution import Execution
from vit22b.folder import read_folder
from vit22b.image import image_batches
from vit22b.sharding import make_mesh, param_shardings

CONFIG = ModelConfig(dataclasses.replace(vit("mu"), depth=1, pooling="mean"), classes=10)


@pytest.fixture(scope="module")
def expected(digits):
    """Loss and accuracy over all the held-out images in one batch, without the evaluator."""
    folder = read_folder(digits / "heldout")
    (pixels,) = image_batches([record.path for record in folder.records], PREPROCESS, 100)
    targets = multi_hot([record.labels for record in folder.records], folder.labels)
    score = jax.jit(scores(model.abstract(CONFIG)[0], PREPROCESS))
    found = score(random_params(CONFIG), {"pixels": pixels, "targets": targets})
    return {name: float(np.asarray(each).mean()) for name, each in found.items()}


@pytest.mark.parametrize(
    ("batch", "shape", "split"),
    [(32, (1, 1), "features"), (30, (4, 2), "features"), (28, (4, 2), "images"), (128, (1, 1), "features")],
)
def test_the_means_are_over_all_images_whatever_the_batch(digits, expected, batch, shape, split):
    mesh = make_mesh(*shape)
    labels = read_folder(digits / "train").labels
    params = random_params(CONFIG)
    score = scores(model.abstract(CONFIG)[0], PREPROCESS, Execution(split=split, mesh=mesh))
    evaluator = HeldOut(digits / "heldout", labels, PREPROCESS, score, batch, mesh)
    found = evaluator(jax.device_put(params, param_shardings(params, mesh)))
    assert set(found) == {"top1", "loss"}
    assert found["top1"] == pytest.approx(expected["top1"], abs=1e-9)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_head_that_knows_the_labels_has_a_top1_of_1(digits):
    """The targets themselves as the logits."""

    def score(params, batch):
        del params
        best = jnp.take_along_axis(batch["targets"], batch["targets"].argmax(-1, keepdims=True), axis=-1)
        return {"top1": best[:, 0]}

    labels = read_folder(digits / "train").labels
    assert HeldOut(digits / "heldout", labels, PREPROCESS, score, 32, make_mesh())({}) == {"top1": 1.0}


def test_labels_stand_for_what_training_has_them_stand_for(digits):
    labels = (*read_folder(digits / "train").labels, "number")

    def score(params, batch):
        del params
        return {"labels": batch["targets"].sum(axis=-1), "numbers": batch["targets"][:, -1]}

    found = HeldOut(
        digits / "heldout", labels, PREPROCESS, score, 32, make_mesh(), flatten=lambda own: (*own, "number")
    )
    assert found({}) == {"labels": 2.0, "numbers": 1.0}


def test_an_image_that_cannot_be_decoded_is_named_at_the_start(digits, tmp_path):
    shutil.copytree(digits / "heldout", tmp_path / "heldout")
    last = max((tmp_path / "heldout").glob("*.png"))
    last.write_bytes(last.read_bytes()[:40])
    labels = read_folder(digits / "train").labels
    with pytest.raises(ValueError, match=f"{last.name} is not an image that can be used"):
        HeldOut(tmp_path / "heldout", labels, PREPROCESS, lambda *_: {}, 32, make_mesh())


def test_labels_that_are_not_trained_on_are_named(digits):
    labels = read_folder(digits / "train").labels
    with pytest.raises(ValueError, match="has the labels zero, which are not trained; give images of the classes"):
        HeldOut(digits / "heldout", tuple(set(labels) - {"zero"}), PREPROCESS, lambda *_: {}, 32, make_mesh())
