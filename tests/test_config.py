import dataclasses
import json

import pytest

from vit22b.config import SIZES, ModelConfig, Preprocess, TextConfig, ViTConfig, from_fields, text_tower, vit

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
        ({"pooling": "max"}, "pooling is 'max'; expected 'map' or 'mean'"),
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
    ],
)
def test_a_text_tower_that_cannot_be_says_what_can(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        dataclasses.replace(ZERO_SHOT.text, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 0}, "resolution is 0; expected a positive number of pixels"),
        ({"max_pixels": 0}, "max_pixels is 0; expected a positive number of pixels"),
        ({"value_range": (1, -1)}, r"value_range is \(1, -1\); expected \(low, high\) with low < high"),
    ],
)
def test_a_preprocessing_that_cannot_be_says_what_can(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Preprocess(**changes)


def test_a_model_whose_parts_do_not_fit_says_so():
    with pytest.raises(ValueError, match=r"classes is -1; expected 0 \(no head\) or more"):
        ModelConfig(vit("mu"), classes=-1)
    with pytest.raises(ValueError, match="projects to 128, the image tower embeds in 192; they must be equal"):
        ModelConfig(vit("Ti"), text=ZERO_SHOT.text)


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


@pytest.mark.parametrize("config", [ZERO_SHOT, ModelConfig(vit("22b", pooling="mean"), classes=29_593)])
def test_a_model_makes_the_round_trip_through_json(config):
    text = json.dumps(config.to_json())
    assert ModelConfig.from_json(json.loads(text)) == config


def test_a_preprocessing_makes_the_round_trip_through_json():
    preprocess = Preprocess(384, value_range=(0, 1), max_pixels=10**6)
    again = from_fields(Preprocess, json.loads(json.dumps(dataclasses.asdict(preprocess))))
    assert again == preprocess
    assert hash(again) == hash(preprocess)


def test_an_unknown_field_is_named(subtests):
    for place, owner in (((), "ModelConfig"), (("image",), "ViTConfig"), (("text",), "TextConfig")):
        with subtests.test(owner):
            values = ZERO_SHOT.to_json()
            part = values
            for key in place:
                part = part[key]
            part["registers"] = 4
            with pytest.raises(ValueError, match=f"{owner} has no field registers; it was written by a newer version"):
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


def test_a_head_is_the_widths_share():
    assert ViTConfig(128, 2, 512, 8, 4, 28).head_dim == 16
    assert TextConfig(300, 128, 2, 512, 8, 128).head_dim == 16
