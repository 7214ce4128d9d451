import dataclasses
import json

import pytest

from tests.towers import FORM, OTHER
from vit22b.config import SIZES, ModelConfig, TextConfig, ViTConfig, text_tower, vit

ZERO_SHOT = ModelConfig(vit("mu"), classes=10, text=text_tower(vit("mu"), vocabulary=300))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width is 0; expected a positive number"),
        ({"depth": -1}, "depth is -1; expected a positive number"),
        ({"mlp_dim": 0}, "mlp_dim is 0; expected a positive number"),
        ({"heads": 0}, "heads is 0; expected a positive number"),
        ({"heads": 7}, "width 128 is not divisible by 7 heads; take 8 heads"),
        ({"patch": 0}, "patch is 0; expected a positive number of pixels"),
        ({"resolution": 0}, "resolution is 0; expected a positive number of pixels"),
        ({"resolution": 30}, "resolution 30 is not a multiple of the patch 4; take 28 or 32"),
        ({"resolution": 3}, "resolution 3 is not a multiple of the patch 4; take 4"),
        ({"pooling": "max"}, "pooling is 'max'; expected 'map', 'mean' or 'class'"),
        ({"block": "serial"}, "block is 'serial'; expected 'parallel' or 'sequential'"),
        ({"norm": "batch"}, "norm is 'batch'; expected 'rms' or 'layer'"),
        ({"norm_epsilon": 0}, "norm_epsilon is 0; expected a small positive number"),
        ({"activation": "relu"}, "activation is 'relu'; expected 'gelu_tanh', 'gelu' or 'quick_gelu'"),
        ({"layer_scale": True}, "layer_scale scales what .*; take block 'sequential', or leave it out"),
        ({"registers": -1}, r"registers is -1; expected 0 \(none\) or more"),
        ({"projection": -1}, r"projection is -1; expected 0 \(none\) or more"),
        ({"pooling": "class"}, "pooling 'class' needs a class token; set class_token, or leave it out"),
        ({"class_position": True}, "class_position needs a class token; set class_token, or leave it out"),
    ],
)
def test_an_image_tower_that_cannot_be_says_what_can(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        vit("mu", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": 0}, "vocabulary is 0; expected a positive number of token ids"),
        ({"length": 0}, "length is 0; expected a positive number of tokens"),
        ({"heads": 9}, "width 128 is not divisible by 9 heads; take 8 heads"),
        ({"projection": 0}, "projection is 0; expected the size of an embedding"),
        ({"pooling": "first"}, "pooling is 'first'; expected 'last' or 'end'"),
        ({"pooling": "end"}, "end_id is None; pooling 'end' needs the token id of a text's end, below 300"),
        ({"pooling": "end", "end_id": 300}, "end_id is 300; pooling 'end' needs .*, below 300"),
    ],
)
def test_a_text_tower_that_cannot_be_says_what_can(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        dataclasses.replace(ZERO_SHOT.text, **changes)


def test_a_model_whose_parts_do_not_fit_says_so():
    with pytest.raises(ValueError, match=r"classes is -1; expected 0 \(no head\) or more"):
        ModelConfig(vit("mu"), classes=-1)
    with pytest.raises(ValueError, match="projects to 128, the image tower embeds in 192; they must be equal"):
        ModelConfig(vit("Ti"), text=ZERO_SHOT.text)
    with pytest.raises(ValueError, match="projects to 128, the image tower embeds in 64; they must be equal"):
        ModelConfig(vit("mu", projection=64), text=ZERO_SHOT.text)
    with pytest.raises(ValueError, match="similarity is 'dot'; expected 'softmax' or 'sigmoid'"):
        ModelConfig(vit("mu"), similarity="dot")


@pytest.mark.parametrize(("name", "meant"), [("b", "B"), ("22B", "22b"), ("so400M", "So400m"), ("mue", "mu")])
def test_an_unknown_size_lists_the_sizes_and_the_nearest(name, meant):
    with pytest.raises(
        ValueError, match=f"unknown size '{name}'; expected one of {', '.join(SIZES)}. Did you mean"
    ) as e:
        vit(name)
    assert f"'{meant}'" in str(e.value).rpartition("Did you mean")[2]


def test_a_size_like_no_other_gets_no_suggestion():
    with pytest.raises(ValueError, match=r"expected one of mu, Ti, .*, 22b.$"):
        vit("tremendous")


def test_the_case_of_a_size_matters():
    assert (vit("g").width, vit("G").width) == (1408, 1664)


def test_a_named_size_takes_changes():
    assert vit("B", resolution=384) == dataclasses.replace(SIZES["B"], resolution=384)
    assert vit("B", resolution=384).tokens == (384 // 16) ** 2


@pytest.mark.parametrize("config", [ZERO_SHOT, OTHER, ModelConfig(vit("22b", pooling="mean"), classes=29_593)])
def test_a_model_makes_the_round_trip_through_json(config):
    text = json.dumps(config.to_json())
    assert ModelConfig.from_json(json.loads(text)) == config


def test_a_configuration_of_an_older_version_reads_as_the_papers():
    sizes = {"width": 128, "depth": 4, "mlp_dim": 512, "heads": 8}
    image = {**sizes, "patch": 4, "resolution": 28, "pooling": "map", "qk_norm": True}
    text = {**sizes, "vocabulary": 300, "projection": 128, "length": 16, "qk_norm": True}
    assert ModelConfig.from_json({"image": image, "classes": 10, "text": text}) == ZERO_SHOT


def test_an_unknown_field_is_named(subtests):
    for place, owner in (((), "ModelConfig"), (("image",), "ViTConfig"), (("text",), "TextConfig")):
        with subtests.test(owner):
            values = ZERO_SHOT.to_json()
            part = values
            for key in place:
                part = part[key]
            part["experts"] = 4
            with pytest.raises(ValueError, match=f"{owner} has no field experts; it was written by a newer version"):
                ModelConfig.from_json(values)


def test_a_missing_field_is_named(subtests):
    for place, field, owner in (((), "image", "ModelConfig"), (("image",), "depth", "ViTConfig")):
        with subtests.test(owner):
            values = ZERO_SHOT.to_json()
            part = values
            for key in place:
                part = part[key]
            del part[field]
            with pytest.raises(ValueError, match=f"{owner} lacks {field}"):
                ModelConfig.from_json(values)


def test_a_text_tower_is_the_images_block_at_most_768_wide_and_12_deep(subtests):
    for size, image in SIZES.items():
        with subtests.test(size):
            text = text_tower(image, vocabulary=300, length=20)
            assert text.projection == image.width
            assert text.width == min(image.width, 768)
            assert text.depth == min(image.depth, 12)
            assert text.mlp_dim == 4 * text.width
            assert text.heads == (image.heads if image.width <= 768 else 12)
            assert (text.vocabulary, text.length) == (300, 20)
            ModelConfig(image, text=text)
    assert text_tower(vit("mu", qk_norm=False), 300).qk_norm is False


def test_a_text_tower_has_the_images_form_of_block_and_the_size_of_its_embedding():
    text = text_tower(OTHER.image, vocabulary=300)
    assert text.form == OTHER.image.form == FORM
    assert text.projection == OTHER.image.embedding == 24
    assert vit("22b").form == {}


def test_a_head_is_the_widths_share():
    assert ViTConfig(128, 2, 512, 8, 4, 28).head_dim == 16
    assert TextConfig(128, 2, 512, 8, 300, 128).head_dim == 16
