"""What the weights of each family become: exactly the tree that they were written from."""

import dataclasses
import json
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from export.families import big_vision, clip_and_siglip, timm_vit, vit_and_dino
from export.families.pixels import preset, read_pixels
from export.families.plan import Choices
from export.families.positions import resampled
from export.families.rules import assemble
from export.families.weights import open_weights
from tests import foreign
from vit22b.model import abstract
from vit22b.preprocess import Preprocess
from vit22b.tree import leaves

CLIP_BILINEAR = dataclasses.replace(preset("clip", 224), method="bilinear")


def tree_of(plan):
    return assemble(plan.weights.without(plan.skip), plan.rules, abstract(plan.config)[1])


def assert_equal(params, expected):
    assert leaves(params).keys() == leaves(expected).keys()
    for name, leaf in leaves(params).items():
        assert leaf.dtype == np.float32, name
        np.testing.assert_array_equal(leaf, leaves(expected)[name], err_msg=name)


@pytest.mark.parametrize(
    ("make", "plan", "config"),
    [
        (foreign.dino, vit_and_dino.plan, foreign.DINO),
        (foreign.vit, vit_and_dino.plan, foreign.VIT),
        (foreign.clip, clip_and_siglip.clip, foreign.CLIP),
        (foreign.siglip, clip_and_siglip.siglip, foreign.SIGLIP),
        (foreign.timm, timm_vit.plan, foreign.TIMM),
    ],
)
def test_tensors_of_torch_become_the_tree_that_they_were_written_from(make, plan, config, tmp_path):
    tensors, described, params = make()
    worked_out = plan(open_weights(foreign.write(tmp_path / "m", tensors, config=described)), Choices())
    assert worked_out.config == config
    assert_equal(tree_of(worked_out), params)


@pytest.mark.parametrize("stacked", [False, True])
def test_arrays_of_big_vision_become_the_tree_that_they_were_written_from(stacked, tmp_path):
    arrays, params = foreign.big_vision()
    if stacked:  # a scanned model has each leaf once, with the layers in front
        layers = {name for name in arrays if "encoderblock_0/" in name}
        for name in layers:
            pair = [arrays.pop(name), arrays.pop(name.replace("block_0", "block_1"))]
            arrays[name.replace("block_0", "block")] = np.stack(pair)
    np.savez(tmp_path / "m.npz", **arrays)
    plan = big_vision.plan(open_weights(tmp_path / "m.npz"), Choices())
    assert plan.config == foreign.BIG_VISION
    assert_equal(tree_of(plan), params)


def test_two_towers_of_big_vision_become_the_tree_that_they_were_written_from(tmp_path):
    arrays, params = foreign.big_vision_siglip()
    np.savez(tmp_path / "m.npz", **arrays)
    plan = big_vision.plan(open_weights(tmp_path / "m.npz"), Choices())
    assert plan.config == foreign.SIGLIP
    assert_equal(tree_of(plan), params)


def test_shards_and_half_precision_read_as_one_float32_file(tmp_path):
    tensors, described, params = foreign.dino()
    folder = foreign.write(tmp_path / "m", tensors, config=described)
    (folder / "model.safetensors").unlink()
    half = {name: np.ascontiguousarray(t).astype(ml_dtypes.bfloat16) for name, t in tensors.items()}
    names = sorted(half)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: half[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    rounded = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16).astype(np.float32), params)
    assert_equal(tree_of(vit_and_dino.plan(open_weights(folder), Choices())), rounded)
    (folder / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"names b\.safetensors, which is not there"):
        open_weights(folder)


def test_all_that_is_missing_left_over_or_of_another_shape_is_listed(tmp_path):
    tensors, described, _ = foreign.dino()
    del tensors["layernorm.bias"], tensors["encoder.layer.1.norm2.weight"]
    tensors["decoder.weight"] = np.zeros((3, 4), np.float32)
    tensors["encoder.layer.0.mlp.fc2.weight"] = tensors["encoder.layer.0.mlp.fc2.weight"].T
    plan = vit_and_dino.plan(open_weights(foreign.write(tmp_path / "m", tensors, config=described)), Choices())
    with pytest.raises(ValueError, match="does not fit the model that it describes") as raised:
        tree_of(plan)
    lines = str(raised.value).splitlines()
    assert "  missing: layernorm.bias, for image/final_norm/bias" in lines
    assert "  missing: encoder.layer.1.norm2.weight, for image/blocks/mlp_norm/scale" in lines
    assert "  left over: decoder.weight (3, 4)" in lines
    kernel = "image/blocks/mlp_out/kernel"
    assert f"  encoder.layer.0.mlp.fc2.weight is (24, 16), in our layout (16, 24); {kernel} takes (24, 16)" in lines
    assert len(lines) == 6


def test_registers_with_positions_have_them_added_for_good(tmp_path):
    tensors, described, params = foreign.timm()
    leading = np.arange(2 * 16, dtype=np.float32).reshape(1, 2, 16)
    tensors["pos_embed"] = np.concatenate([leading, tensors["pos_embed"]], axis=1)
    tree = tree_of(timm_vit.plan(open_weights(foreign.write(tmp_path / "m", tensors, config=described)), Choices()))
    params["image"]["class_token"] += leading[0, 0]
    params["image"]["registers"] += leading[0, 1:]
    assert_equal(tree, params)


def test_rotary_models_of_timm_are_refused_by_name_though_every_tensor_fits(tmp_path):
    tensors, described, _ = foreign.timm()
    weights = open_weights(foreign.write(tmp_path / "m", tensors, config=described))
    for name in ("vit_pe_core_base_patch16_224", "vit_base_patch16_rope_224.in1k", "eva02_base_patch14_224"):
        with pytest.raises(ValueError, match="blocks of another form"):
            timm_vit.plan(weights, Choices(architecture=name))


@pytest.mark.parametrize("config", [{}, {"vision_config": {"num_attention_heads": 2}}])
def test_what_no_tensor_of_two_towers_shows_is_not_guessed(config, tmp_path):
    tensors, _, _ = foreign.clip()
    weights = open_weights(foreign.write(tmp_path / "m", tensors, config=config))
    with pytest.raises(ValueError, match=r"no config\.json with (vision|text)_config beside it.*copy config\.json"):
        clip_and_siglip.clip(weights, Choices())


def test_two_tensors_that_a_family_calls_the_same_are_an_error_with_both(tmp_path):
    tensors, described, _ = foreign.dino()
    tensors["x.layernorm.bias"] = tensors["layernorm.bias"]
    weights = open_weights(foreign.write(tmp_path / "m", tensors, config=described))
    with pytest.raises(ValueError, match=r"has layernorm\.bias and x\.layernorm\.bias, which are both layernorm\.bias"):
        weights.renamed(lambda name: name.removeprefix("x."))


def test_a_tensor_of_another_type_or_damaged_is_an_error_that_names_it(tmp_path):
    floats = {name: np.ones(3, name) for name in ("float16", "float32", "float64", "bfloat16")}
    refused = {"float8": np.ones(3, ml_dtypes.float8_e4m3fn), "integers": np.ones(3, np.int32)}
    save_file({**floats, **refused}, tmp_path / "m.safetensors")
    np.savez(tmp_path / "m.npz", **floats, **refused, truth=np.ones(3, bool))
    for file in ("m.safetensors", "m.npz"):
        weights = open_weights(tmp_path / file)
        for name in floats:
            np.testing.assert_array_equal(weights.read(name), np.ones(3, np.float32))
        for name in refused:
            with pytest.raises(ValueError, match=rf"{file}: the tensor {name} .*expected one of"):
                weights.read(name)
    np.savez(tmp_path / "m.npz", large=np.ones(10**6, np.float32))
    data = bytearray((tmp_path / "m.npz").read_bytes())
    data[len(data) // 2] ^= 255  # the header still reads
    (tmp_path / "m.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"m\.npz: the tensor large cannot be read: Bad CRC"):
        open_weights(tmp_path / "m.npz").read("large")


def test_a_damaged_json_file_is_an_error_that_names_it(tmp_path):
    tensors, described, _ = foreign.dino()
    folder = foreign.write(tmp_path / "m", tensors, config=described)
    for text, message in (('{"a": ', "is damaged"), ("[1]", "has a list; expected a JSON object")):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=rf"config\.json {message}"):
            open_weights(folder)
        (folder / "preprocessor_config.json").write_text(text)
        with pytest.raises(ValueError, match=rf"preprocessor_config\.json {message}"):
            read_pixels(folder, {})


def test_onnx_without_its_library_is_an_error_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match="pip install onnx"):
        open_weights(tmp_path / "m.onnx")


@pytest.mark.parametrize("how", ["bicubic", "antialiased", "zoom"])
@pytest.mark.parametrize("tokens", [9, 25, 64])
def test_resampled_positions_keep_what_is_linear_inside_and_the_leading_rows(how, tokens):
    rows, columns = np.mgrid[0.5:5, 0.5:5] / 5
    table = np.stack([np.ones(25), rows.ravel(), columns.ravel()], axis=1)
    table = np.concatenate([np.full((1, 3), 7.0), table])
    made = resampled(table, tokens, 1, how)
    side = int(tokens**0.5)
    np.testing.assert_array_equal(made[0], 7)
    np.testing.assert_allclose(made[1:, 0], 1, rtol=1e-6)
    grid = made[1:].reshape(side, side, 3)
    np.testing.assert_allclose(grid[..., 1], grid[..., 2].T, rtol=1e-6)
    ends = (0.1, 0.9) if how == "zoom" else (0.5 / side, 1 - 0.5 / side)
    inner = slice(side // 3, side - side // 3)  # kernels are cut off at the edge
    np.testing.assert_allclose(grid[inner, 0, 1], np.linspace(*ends, side)[inner], atol=0.02)
    if tokens == 25:
        np.testing.assert_array_equal(made, table)


def test_bicubic_is_torchs_kernel():
    # The weights of interpolate(mode="bicubic", align_corners=False) from 4 to 2 at the second position: Keys' kernel
    # with a = -0.75 at distances 1.5, 0.5, 0.5 and 1.5, and the edge repeated.
    basis = np.eye(16, dtype=np.float32)
    matrix = resampled(basis, 4, 0, "bicubic").reshape(2, 2, 4, 4)
    np.testing.assert_allclose(matrix[1, 1, 2], np.array([0, -0.09375, 0.59375, 0.5]) * 0.59375, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({**foreign.SQUARE}, Preprocess(8)),
        ({"image_processor_type": "ViTImageProcessor"}, Preprocess(224, "bilinear")),
        (
            {"image_processor_type": "ViTImageProcessorFast", "crop_size": None, "do_center_crop": None, "size": 8},
            Preprocess(8, "bilinear"),
        ),
        ({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 224}}, preset("clip", 224)),
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224}, preset("clip", 224)),
        ({"image_processor_type": "CLIPImageProcessor", "resample": 2}, CLIP_BILINEAR),
        ({"image_processor_type": "Siglip2ImageProcessor"}, Preprocess(256, "bilinear")),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
            | {"resample": 2, "image_processor_type": "OtherImageProcessor", **foreign.IMAGENET},
            Preprocess(
                224, "bilinear", "center", crop_fraction=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
            ),
        ),
        (
            {"size": 224, "do_normalize": False, "do_center_crop": False, "resample": 3},
            Preprocess(224, value_range=(0.0, 1.0)),
        ),
        ({"image_processor": {**foreign.SQUARE}}, Preprocess(8)),
    ],
)
def test_preprocessing_of_transformers_is_read(values, expected, tmp_path):
    name = "processor_config.json" if "image_processor" in values else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps(values))
    assert read_pixels(tmp_path, {}) == expected


def test_preprocessing_of_timm_is_read_and_cuts_the_pixels_that_timm_cuts(tmp_path):
    mean, std = foreign.IMAGENET.values()
    told = {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic", "mean": mean, "std": std}
    pixels = read_pixels(tmp_path, {"pretrained_cfg": told})
    assert pixels.shorter_side == 248  # floor(224 / 0.9), where rounding gives 249
    assert dataclasses.replace(pixels, crop_fraction=0.875) == preset("imagenet", 224)
    assert read_pixels(tmp_path, {}) is None
    del told["crop_pct"]
    with pytest.raises(ValueError, match=r"has no crop_pct, in pretrained_cfg; .* give --pixels"):
        read_pixels(tmp_path, {"pretrained_cfg": told})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 8, "resample": 1}, "resample is 1; expected 2"),
        ({"size": {"height": 8, "width": 9}}, "expected equal height and width"),
        ({"size": {"shortest_edge": 8}}, "expected equal height and width, or a centre crop"),
        ({"size": 8, "do_rescale": False}, "do_rescale is False; expected true"),
        ({"size": {"shortest_edge": 8}, "crop_size": 9, "do_center_crop": True}, "shortest_edge of at least the crop"),
        (
            {"resample": None, "image_processor_type": "MyImageProcessor"},
            "no resample, and MyImageProcessor is a class",
        ),
        ({"image_mean": None, "image_processor_type": None}, "no image_mean, and it names no class"),
        ({"do_center_crop": None, "crop_size": 8, "image_processor_type": None}, "no do_center_crop, and"),
    ],
)
def test_preprocessing_that_cannot_be_said_is_refused(values, message, tmp_path):
    whole = {**foreign.SQUARE, "resample": 3, "do_center_crop": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**whole, **values}))
    with pytest.raises(ValueError, match=message):
        read_pixels(tmp_path, {})
