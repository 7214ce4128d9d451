"""Preprocessing of transformers and timm against ours, on one picture that is no square.

Both sides round to whole levels of 0..255; Pillow and torch round once more between rows and columns, so that they may
differ by a level or two.
"""

import dataclasses
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import timm
import transformers
from PIL import Image
from rich.table import Table

from export.families.pixels import read_pixels
from vit22b import program
from vit22b.image import preprocess_bytes

LEVELS = 2.0
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_DINO = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, **_IMAGENET}


@dataclasses.dataclass(frozen=True)
class PixelCase:
    """A preprocessing; `make` saves it in a folder and gives its config.json and what it makes of a picture."""

    name: str
    make: Callable[[Path, Image.Image], tuple[dict[str, Any], np.ndarray]]


def report(cases: Sequence[PixelCase]) -> list[dict[str, Any]]:
    """Compares them and prints the table."""
    table = Table("preprocessing", "max levels of 255", "mean", "verdict", title="parity of pixels")
    results = []
    for case in cases:
        errors = compare(case)
        verdict = "ok" if errors.max() <= LEVELS + 1e-3 else "OFF"
        table.add_row(case.name, f"{errors.max():.2f}", f"{errors.mean():.2f}", verdict)
        results.append({"family": "pixels", "model": case.name, "max_levels": float(errors.max()), "verdict": verdict})
    program.table_console().print(table)
    return results


def compare(case: PixelCase) -> np.ndarray:
    """The absolute difference of every value, in levels of 0..255."""
    picture, encoded = _picture()
    with tempfile.TemporaryDirectory() as folder:
        config, theirs = case.make(Path(folder), picture)
        preprocess = read_pixels(Path(folder), config)
    assert preprocess is not None, case.name
    return np.abs(theirs - preprocess_bytes(tf.constant(encoded), preprocess).numpy())


def _picture() -> tuple[Image.Image, bytes]:
    """Smooth colours under noise, 500 x 375, and its PNG."""
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(256, size=(12, 16, 3)).astype(np.uint8)).resize((500, 375), Image.BICUBIC)
    noisy = np.asarray(smooth).astype(int) + random.integers(-20, 20, size=(375, 500, 3))
    picture, file = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), io.BytesIO()
    picture.save(file, "PNG")
    return picture, file.getvalue()


def _levels(pixels: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """Values [3, r, r] less the mean and over the deviation as levels [r, r, 3]."""
    return (pixels.transpose(1, 2, 0) * np.asarray(std) + np.asarray(mean)) * 255


def _processor(name: str, **options: Any) -> PixelCase:
    def make(folder: Path, picture: Image.Image) -> tuple[dict[str, Any], np.ndarray]:
        processor = getattr(transformers, name)(**options)
        processor.save_pretrained(folder)
        pixels = processor(images=picture, return_tensors="np")["pixel_values"][0]
        return {}, _levels(pixels, processor.image_mean, processor.image_std)

    return PixelCase(name, make)


def _timm(name: str, **values: Any) -> PixelCase:
    def make(folder: Path, picture: Image.Image) -> tuple[dict[str, Any], np.ndarray]:
        del folder
        config = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3, **values}
        transform = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=config))
        return {"pretrained_cfg": config}, _levels(transform(picture).numpy(), config["mean"], config["std"])

    return PixelCase(name, make)


CASES = (
    _processor("ViTImageProcessor"),
    _processor("CLIPImageProcessor"),
    _processor("SiglipImageProcessor"),
    _processor("BitImageProcessor", **_DINO),
    _timm("timm, centre 0.9, bicubic", crop_pct=0.9, interpolation="bicubic"),
    _timm("timm, centre 0.875, bilinear", crop_pct=0.875, interpolation="bilinear"),
    _timm("timm, squash", crop_pct=1.0, interpolation="bicubic", crop_mode="squash"),
)
