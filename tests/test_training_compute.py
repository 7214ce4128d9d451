import dataclasses
import json
import shutil

import pytest

from tests.towers import HEAD, PREPROCESS, ZERO_SHOT, random_params
from train.layer_rates import frozen
from train.training_compute import image_flops, training_flops
from vit22b import flops, model
from vit22b.checkpoint import Checkpoints, load
from vit22b.description import Description, read_description
from vit22b.lineage import lineage
from vit22b.stored_layers import open_layers


@pytest.fixture
def moved(tuned, tmp_path):
    """The tuned checkpoint elsewhere, and what changes where its source lies."""
    shutil.copytree(tuned, tmp_path / "lit")
    path = tmp_path / "lit" / "checkpoints" / "12" / "model" / "model.json"

    def move(place, space_id=None):
        values = json.loads(path.read_text())
        values["source"]["checkpoint"] = str(place)
        values["source"]["space_id"] = space_id or values["source"]["space_id"]
        path.write_text(json.dumps(values))
        return tmp_path / "lit"

    return move


def test_pretraining_costs_its_steps(pretrained):
    image = read_description(pretrained).config.image
    assert training_flops(pretrained) == 12 * 32 * flops.train(image, image.sequence)
    assert training_flops(pretrained / "checkpoints" / "12") == training_flops(pretrained)


def test_tuning_costs_every_image_once_the_text_towers_steps_and_what_came_before(tuned, pretrained):
    config = read_description(tuned).config
    own = 400 * flops.forward(config.image, config.image.sequence) + 12 * 64 * flops.train(
        config.text, config.text.length
    )
    assert training_flops(tuned) == own + training_flops(pretrained)
    assert [run.folder for run in lineage(tuned).runs] == [each / "checkpoints" / "12" for each in (tuned, pretrained)]


@pytest.mark.parametrize(
    ("freeze", "kernels", "backward"),
    [
        ((), 1.0, True),
        (("image/blocks/mlp_*",), 1 / 3, True),  # 2 D F of 4 D^2 + 2 D F, with F = 4 D
        (("image/blocks/*",), 0.0, True),  # the patches' projection is before them
        (("image/blocks/*", "image/patch_projection/*", "image/position_embedding"), 0.0, False),
        (("image/*",), 0.0, False),
    ],
)
def test_what_stands_still_costs_no_gradient_of_its_own(freeze, kernels, backward):
    _, shapes = model.abstract(HEAD)
    image, tokens = HEAD.image, HEAD.image.sequence
    weights = 2 * tokens * flops.kernel_parameters(image)
    forward = flops.forward(image, tokens)
    inputs = 2 * forward - weights if backward else 0
    found = image_flops(HEAD, shapes, frozen(freeze, shapes))
    assert found == forward + inputs + (round(weights * kernels) if backward else 0)


def test_a_fine_tuning_counts_what_it_moved(pretrained, tmp_path):
    source = read_description(pretrained)
    before = pretrained / "checkpoints" / "12"
    origin = {"checkpoint": str(before), "space_id": open_layers(before).space_id}
    description = dataclasses.replace(source, source=origin)
    data = {"step": 3, "batch": 8, "recipe": {"freeze": ["image/*"]}}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(3, {"params": load(pretrained).params}, data, description)
    image = source.config.image
    own = 3 * 8 * flops.forward(image, image.sequence)
    assert training_flops(tmp_path) == own + training_flops(pretrained)


def test_what_began_with_a_checkpoint_that_is_gone_is_not_known(moved, tuned, tmp_path):
    gone = moved(tmp_path / "none" / "checkpoints" / "12")
    assert training_flops(gone) is None
    assert lineage(gone).missing == read_description(tuned).source["space_id"]
    assert len(lineage(gone).runs) == 1


def test_what_was_imported_is_not_known(tmp_path, moved):
    source = {"checkpoint": "/weights.npz", "family": "clip", "space_id": "0" * 16}
    description = Description(ZERO_SHOT, PREPROCESS, tokenizer="{}", source=source)
    with Checkpoints(tmp_path / "imported", keep=1) as checkpoints:
        checkpoints.save(0, {"params": random_params(ZERO_SHOT)}, {"step": 0}, description)
    assert training_flops(tmp_path / "imported") is None
    assert lineage(tmp_path / "imported").missing is None
    imported = tmp_path / "imported" / "checkpoints" / "0"
    begun = moved(imported, open_layers(imported).space_id)
    assert [run.folder for run in lineage(begun).runs] == [begun / "checkpoints" / "12", imported]
    assert training_flops(begun) is None


def test_another_checkpoint_in_the_place_of_the_source_is_no_origin(moved, tuned):
    other = moved(tuned / "checkpoints" / "12")
    assert lineage(other).missing == read_description(tuned).source["space_id"]
    assert [run.folder for run in lineage(other).runs] == [other / "checkpoints" / "12"]
    assert training_flops(other) is None


def test_no_checkpoint_is_told(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint in"):
        training_flops(tmp_path)
