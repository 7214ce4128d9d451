import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from tests.towers import OTHER, random_params
from train import finetune
from train.compute import Compute
from train.layer_rates import frozen, scaled
from train.mixture import open_mixture
from train.optimizer import Optimizer, make
from vit22b import model
from vit22b.checkpoint import Checkpoints, load
from vit22b.config import ModelConfig
from vit22b.embedder import embed_files
from vit22b.folder import read_folder
from vit22b.stored_layers import open_layers
from vit22b.tree import divided, leaves, merged

STEPS = 4
STILL = ("image/blocks/mlp_*", "image/patch_projection/*", "head/bias")


def settings(pretrained, digits, workdir, **changes):
    values = {
        "checkpoint": pretrained,
        "data": (str(digits / "train"),),
        "workdir": workdir,
        "steps": STEPS,
        "batch": 16,
        "log_every": 1,
        "signals_every": 0,
        "resolution": 20,
        "layer_decay": 0.75,
        "freeze": STILL,
        "optimizer": Optimizer(schedule="cosine", peak=1e-3, warmup=1, ema=0.5),
    }
    return finetune.Settings(**{**values, **changes})


@pytest.fixture(scope="module")
def finetuned(pretrained, digits, tmp_path_factory):
    """At another resolution, parts of it frozen, averaged; a checkpoint each second step."""
    workdir = tmp_path_factory.mktemp("finetune") / "uninterrupted"
    finetune.finetune(settings(pretrained, digits, workdir, save_every=2, eval_data=digits / "heldout"))
    return workdir


def logged(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if "per_second" not in name and name != "input_wait"}
        for line in lines
    ]


def test_the_checkpoint_loads_and_embeds_at_its_new_resolution(finetuned, pretrained, digits):
    trained, source = load(finetuned), load(pretrained)
    description = trained.description
    assert description.config.image.resolution == description.preprocess.resolution == 20
    assert trained.params["image"]["position_embedding"].shape == (25, 128)
    assert description.labels == read_folder(digits / "train").labels
    assert description.source == {
        "checkpoint": str(pretrained / "checkpoints" / "12"),
        "space_id": source.space_id,
    }
    assert trained.weights == "ema"
    vectors = embed_files(trained, [record.path for record in read_folder(digits / "heldout").records[:3]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)
    assert "eval/top1" in logged(finetuned)[-1]


def test_what_is_frozen_keeps_every_byte_and_all_else_moves(finetuned, pretrained):
    before = leaves(load(pretrained).params)
    for weights in ("ema", "params"):
        after = leaves(load(finetuned, weights=weights).params)
        assert set(after) == set(before)
        still = frozen(STILL, after)
        assert 0 < sum(map(still, after)) < len(after)
        for name in set(after) - {"image/position_embedding"}:
            same = np.asarray(before[name]).tobytes() == np.asarray(after[name]).tobytes()
            assert same == still(name), name


def test_a_checkpoint_with_frozen_parts_is_read_layer_by_layer(finetuned):
    layers = open_layers(finetuned)
    for name, leaf in leaves(load(finetuned).params).items():
        np.testing.assert_array_equal(np.concatenate([*layers.read(name)]).reshape(leaf.shape), leaf, err_msg=name)
    assert layers.space_id == load(finetuned).space_id


def test_a_run_that_was_stopped_goes_on_bit_for_bit(finetuned, pretrained, digits, tmp_path):
    shutil.copytree(finetuned / "checkpoints" / "2", tmp_path / "checkpoints" / "2")
    finetune.finetune(settings(pretrained, digits, tmp_path, save_every=2, eval_data=digits / "heldout"))
    assert logged(tmp_path) == logged(finetuned)[2:]
    for weights in ("ema", "params"):
        found, expected = (leaves(load(workdir, weights=weights).params) for workdir in (tmp_path, finetuned))
        for name, leaf in expected.items():
            assert np.asarray(found[name]).tobytes() == np.asarray(leaf).tobytes(), name


def outputs(config, params, images):
    graph, _ = model.abstract(config)
    return jax.jit(lambda params, images: nnx.merge(graph, params).embed_image(images))(params, images)


@pytest.mark.parametrize("resolution", [28, 42])
def test_a_tower_at_another_resolution_begins_as_it_would_run_there(resolution):
    """With a class token that has a position, registers and a projection."""
    params = random_params(OTHER)
    before = ModelConfig(OTHER.image, classes=OTHER.classes)
    after = ModelConfig(dataclasses.replace(OTHER.image, resolution=resolution), classes=OTHER.classes)
    moved = finetune.begun(params, after, range(OTHER.classes), 0.0)
    assert moved["image"]["position_embedding"].shape == (1 + after.image.tokens, 32)
    np.testing.assert_array_equal(moved["image"]["position_embedding"][0], params["image"]["position_embedding"][0])
    images = np.random.default_rng(0).uniform(-1, 1, (2, resolution, resolution, 3)).astype(np.float32)
    expected = outputs(before, {name: params[name] for name in ("image", "head")}, images)
    found = outputs(after, moved, images)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_head_goes_by_the_names_of_its_classes():
    params = random_params(OTHER)
    order = np.random.default_rng(0).permutation(10)
    found = finetune.begun(params, dataclasses.replace(OTHER, text=None), order, 0.0)["head"]
    for name, leaf in params["head"].items():
        np.testing.assert_array_equal(found[name], leaf[..., order])


def test_a_new_head_begins_at_0_and_its_bias():
    config = ModelConfig(OTHER.image, classes=3)
    head = finetune.begun(random_params(OTHER), config, None, -2.0)["head"]
    np.testing.assert_array_equal(head["kernel"], np.zeros((32, 3)))
    np.testing.assert_array_equal(head["bias"], np.full(3, -2.0))


def test_updates_fall_with_depth_exactly():
    params = random_params(dataclasses.replace(OTHER, text=None))
    decay, depth = 0.75, OTHER.image.depth
    plain = make(Optimizer("adamw", schedule="wsd", warmup=1, cooldown=1), 10)
    falling = scaled(plain, decay, depth)
    gradients = jax.tree.map(np.sign, params)

    def update(optimizer):
        return leaves(jax.jit(lambda: optimizer.update(gradients, optimizer.init(params), params)[0])())

    found, whole = update(falling), update(plain)
    for name, leaf in whole.items():
        if "/blocks/" in name:
            expected = np.stack([np.float32(decay) ** np.float32(depth - i) * leaf[i] for i in range(depth)])
        elif name.split("/")[1] in ("patch_projection", "position_embedding", "class_token", "registers", "pre_norm"):
            expected = np.float32(decay ** (depth + 1)) * leaf
        else:
            expected = leaf
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_without_decay_the_optimizer_is_as_it_was():
    plain = make(Optimizer(), 10)
    assert scaled(plain, 1.0, 4) is plain


def test_a_tree_is_divided_by_names_and_merged_again():
    params = random_params(OTHER)
    chosen, others = divided(params, lambda name: name.startswith("image/blocks/") or name == "logit_scale")
    assert set(chosen) == {"image", "logit_scale"}
    assert "blocks" not in others["image"]
    both = leaves(merged(chosen, others))
    assert all(both[name] is leaf for name, leaf in leaves(params).items())
    assert set(both) == set(leaves(params))


def test_a_step_that_is_saved_meanwhile_is_not_begun_with(pretrained, digits, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(pretrained, source)
    run = settings(source, digits, tmp_path / "work", resolution=None, freeze=("image/*",))
    task = finetune.make_task(run, open_mixture(run.data), run.compute.make_mesh())
    begun = load(source)
    later = jax.tree.map(lambda leaf: leaf + 1, begun.params)
    with Checkpoints(source) as checkpoints:
        checkpoints.save(13, {"params": later}, {"step": 13}, begun.description)
    assert load(source).step == 13
    assert task.description.source == {"checkpoint": str(source / "checkpoints" / "12"), "space_id": begun.space_id}
    for name, leaf in leaves(merged(task.locked, task.init().params)).items():
        np.testing.assert_array_equal(leaf, leaves(begun.params)[name], err_msg=name)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"--freeze": "image/block/*"}, "--freeze 'image/block/*' matches no parameter; expected names such as image/"),
        ({"--freeze": "*"}, "--freeze * matches every parameter; leave some to train"),
        ({"--layer_decay": 1.5}, "--layer_decay is 1.5; expected a factor in (0, 1]"),
        ({"--resolution": 30}, "resolution 30 is not a multiple of the patch 4; take 28 or 32"),
        ({"--checkpoint": "/nowhere"}, "no checkpoint in /nowhere"),
        ({"--batch": 6, "--mesh": "4x1"}, "--batch 6 does not divide over the 4 devices"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(flags, message, pretrained, digits, tmp_path, run_program, capsys):
    given = {"--checkpoint": pretrained, "--data": digits / "train", "--workdir": tmp_path / "work", **flags}
    arguments = [part for flag in given.items() for part in flag]
    assert run_program(finetune.finetune, finetune.Settings, *arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "work").exists()


def test_a_text_tower_is_left_out_and_told(tuned, digits, tmp_path, capsys):
    run = settings(tuned, digits, tmp_path, resolution=None, head="new", compute=Compute(print_sharding=True))
    finetune.finetune(run)
    printed = capsys.readouterr().out
    assert "note: the checkpoint's text tower is left out" in printed
    assert "with a new head of 10 classes, on 400 images of 28 px" in printed
    task = finetune.make_task(run, open_mixture(run.data), run.compute.make_mesh())
    assert set(merged(task.locked, task.target.params)) == {"image", "head"}
    assert task.description.config.text is task.description.tokenizer is None
    assert task.description.source["space_id"] == load(tuned).space_id
