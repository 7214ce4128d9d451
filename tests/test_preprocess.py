"""The preprocessing's settings: what cannot be, and what the tower gets of a pixel."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from vit22b import model
from vit22b.fields import from_fields
from vit22b.preprocess import Preprocess

IMAGENET = Preprocess(
    224, crop="center", crop_fraction=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), method="bilinear"
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 0}, "resolution is 0; expected a positive number of pixels"),
        ({"max_pixels": 0}, "max_pixels is 0; expected a positive number of pixels"),
        ({"value_range": (1, -1)}, r"value_range is \(1, -1\); expected \(low, high\) with low < high"),
        ({"method": "nearest"}, "method is 'nearest'; expected 'bicubic' or 'bilinear'"),
        ({"crop": "centre"}, "crop is 'centre'; expected 'squash' or 'center'"),
        ({"crop": "center", "crop_fraction": 0}, "crop_fraction is 0; expected more than 0, at most 1"),
        ({"crop": "center", "crop_fraction": 1.1}, "crop_fraction is 1.1; expected more than 0, at most 1"),
        (
            {"crop_fraction": 0.9},
            "crop_fraction is 0.9, but crop 'squash' cuts nothing; take crop 'center', or leave .*",
        ),
        ({"mean": (0, 0, 0)}, r"mean is \(0, 0, 0\) and std is None; give both, or neither to map pixels to .*"),
        ({"std": (1, 1, 1)}, r"mean is None and std is \(1, 1, 1\); give both, or neither to map pixels to .*"),
        ({"mean": (0, 0), "std": (1, 1, 1)}, r"mean is \(0, 0\); expected three numbers, of red, green and blue"),
        ({"mean": (0, 0, 0), "std": (1, 1, 0)}, r"std is \(1.0, 1.0, 0.0\); expected numbers above 0, as parts of .*"),
    ],
)
def test_a_preprocessing_that_cannot_be_says_what_can(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Preprocess(**changes)


@pytest.mark.parametrize("preprocess", [IMAGENET, Preprocess(384, value_range=(0, 1), max_pixels=10**6)])
def test_a_preprocessing_makes_the_round_trip_through_json(preprocess):
    again = from_fields(Preprocess, json.loads(json.dumps(dataclasses.asdict(preprocess))))
    assert again == preprocess
    assert hash(again) == hash(preprocess)


def test_a_preprocessing_of_an_older_version_reads_as_the_papers():
    older = {"resolution": 28, "method": "bicubic", "crop": "squash", "value_range": [-1, 1], "max_pixels": 64 * 2**20}
    assert from_fields(Preprocess, older) == Preprocess(28)


@pytest.mark.parametrize(("side", "fraction", "shorter"), [(224, 1.0, 224), (224, 0.875, 256), (224, 224 / 248, 248)])
def test_the_shorter_side_is_what_the_centre_is_a_fraction_of(side, fraction, shorter):
    assert Preprocess(side, crop="center", crop_fraction=fraction).shorter_side == shorter


def test_a_range_maps_0_to_its_low_and_255_to_its_high_end():
    pixels = jnp.array([0, 255, 51], jnp.uint8).reshape(1, 1, 1, 3)
    values = model.normalise(pixels, Preprocess(28)).ravel()
    np.testing.assert_allclose(values, [-1.0, 1.0, -0.6], atol=1e-6)


def test_mean_and_std_are_of_each_channel():
    pixels = np.random.default_rng(0).integers(256, size=(2, 5, 5, 3)).astype(np.uint8)
    expected = (pixels / 255 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    np.testing.assert_allclose(model.normalise(jnp.asarray(pixels), IMAGENET), expected, atol=1e-6)
    half = Preprocess(224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    by_range = model.normalise(jnp.asarray(pixels), Preprocess(224))
    np.testing.assert_allclose(model.normalise(jnp.asarray(pixels), half), by_range, atol=1e-6)
