"""The preprocessing that goes with weights, from the files that people keep beside them.

In front of the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. It
reads Hugging Face's preprocessor_config.json (or processor_config.json) and timm's pretrained_cfg. What
vit22b.preprocess.Preprocess cannot say is refused: a model fed in another way answers, and worse.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from export.families.weights import read_json
from vit22b.preprocess import Crop, Preprocess

Preset = Literal["symmetric", "imagenet", "clip"]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_METHODS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_FACTOR = 1 / 255
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_MIDDLE = {
    "resample": 3,
    "image_mean": _CLIP[0],
    "image_std": _CLIP[1],
    "size": {"shortest_edge": 224},
    "crop_size": 224,
    "do_center_crop": True,
}
# What transformers' classes have for a field that the file leaves out (read off transformers 5.24).
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ViT": {"resample": 2, "size": 224, "do_center_crop": False, **_HALF},
    "Siglip": {"resample": 3, "size": 224, "do_center_crop": False, **_HALF},
    "Siglip2": {"resample": 2, "patch_size": 16, "max_num_patches": 256, **_HALF},
    "CLIP": _MIDDLE,
    "Bit": _MIDDLE,
}
_CLASS = re.compile(r"(\w+?)(ImageProcessor|FeatureExtractor)(Fast|Pil)?")


def preset(name: Preset, resolution: int) -> Preprocess:
    """A preprocessing by name.

    Args:
        name: symmetric squashes to a square and maps to [-1, 1] (big_vision, SigLIP); imagenet keeps the middle 7/8 and
            has ImageNet's mean and deviation (DINOv2); clip keeps the middle square and has CLIP's.
        resolution: of the tower.
    """
    if name == "symmetric":
        return Preprocess(resolution)
    mean, std = _IMAGENET if name == "imagenet" else _CLIP
    fraction = 0.875 if name == "imagenet" else 1.0
    return Preprocess(resolution, crop="center", crop_fraction=fraction, mean=mean, std=std)


def read_pixels(folder: Path, config: Mapping[str, Any]) -> Preprocess | None:
    """The preprocessing that the files beside some weights describe.

    Args:
        folder: of the weights.
        config: what config.json says.

    Returns:
        None where no file says anything.

    Raises:
        ValueError: it is one that Preprocess cannot say; the message names the field.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = folder / name
        if file.is_file():
            values = read_json(file)
            values = values.get("image_processor", values)
            if any(field in values for field in ("image_mean", "size", "image_processor_type")):
                return _hugging_face(values, file)
    timm = config.get("pretrained_cfg")
    return _timm(timm, folder / "config.json") if timm else None


def _hugging_face(values: Mapping[str, Any], file: Path) -> Preprocess:
    values = _completed(values, file)
    for switch in ("do_resize", "do_rescale"):
        _require(values.get(switch, True), file, switch, False, "true")
    factor = values.get("rescale_factor", _FACTOR)
    _require(math.isclose(factor, _FACTOR, rel_tol=1e-4), file, "rescale_factor", factor, "1 / 255")
    resample = values["resample"]
    _require(resample in _METHODS, file, "resample", resample, "2 (bilinear) or 3 (bicubic)")
    resolution, crop, fraction = _geometry(values, file)
    mean, std = values["image_mean"], values["image_std"]
    if not values.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    return _preprocess(resolution, _METHODS[resample], crop, fraction, mean, std)


def _completed(values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The fields of a file with its class's own for those that it leaves out, or has as null."""
    named = values.get("image_processor_type") or values.get("feature_extractor_type") or ""
    found = _CLASS.fullmatch(named)
    defaults = _DEFAULTS.get(found[1], {}) if found else {}
    whole = {**defaults, **{field: value for field, value in values.items() if value is not None}}
    needed = {"resample"} if "max_num_patches" in whole else {"resample", "size", "do_center_crop"}
    if whole.get("do_normalize", True):
        needed |= {"image_mean", "image_std"}
    else:
        whole = {"image_mean": None, "image_std": None, **whole}
    what = f"and {named} is a class whose defaults are not known here" if named else "and it names no class"
    _require_all(needed, whole, file, what)
    return whole


def _geometry(values: Mapping[str, Any], file: Path) -> tuple[int, Crop, float]:
    """The resolution, the crop and the part of the shorter side that it keeps."""
    if "max_num_patches" in values:  # SigLIP 2 with a free aspect ratio; its square of as many patches
        return values.get("patch_size", 16) * math.isqrt(values["max_num_patches"]), "squash", 1.0
    size, cropped = values["size"], values["do_center_crop"]
    if isinstance(size, int):
        size = {"shortest_edge": size} if cropped else {"height": size, "width": size}
    if not cropped:
        square = size.get("height") == size.get("width") and "height" in size
        _require(square, file, "size", size, "equal height and width, or a centre crop")
        return size["height"], "squash", 1.0
    window = values.get("crop_size", size)
    window = {"height": window, "width": window} if isinstance(window, int) else window
    side, edge = window.get("height", 0), size.get("shortest_edge", 0)
    _require(side and side == window.get("width"), file, "crop_size", window, "equal height and width")
    _require(edge >= side, file, "size", size, f"shortest_edge of at least the crop, {side}")
    return side, "center", side / edge


def _timm(values: Mapping[str, Any], file: Path) -> Preprocess:
    _require_all({"input_size", "crop_pct", "interpolation", "mean", "std"}, values, file, "in pretrained_cfg")
    side, part = values["input_size"][-1], values["crop_pct"]
    mode, method = values.get("crop_mode", "center"), values["interpolation"]
    _require(method in _METHODS.values(), file, "interpolation", method, "bicubic or bilinear")
    _require(mode in ("center", "squash"), file, "crop_mode", mode, "center or squash")
    edge = math.floor(side / part)
    _require(mode == "center" or edge == side, file, "crop_pct", part, "1 with crop_mode squash")
    fraction = side / edge if mode == "center" else 1.0
    return _preprocess(side, method, mode, fraction, values["mean"], values["std"])


def _preprocess(resolution: int, method: Any, crop: Crop, fraction: float, mean: Any, std: Any) -> Preprocess:
    if len({*mean}) == 1 and len({*std}) == 1:  # one line for all channels
        low = -mean[0] / std[0]
        return Preprocess(resolution, method, crop, (low, low + 1 / std[0]), crop_fraction=fraction)
    return Preprocess(resolution, method, crop, crop_fraction=fraction, mean=tuple(mean), std=tuple(std))


def _require(condition: Any, file: Path, field: str, value: Any, expected: str) -> None:
    if not condition:
        raise ValueError(f"{file}: {field} is {value}; expected {expected}. Another --pixels can be given in its place")


def _require_all(fields: set[str], values: Mapping[str, Any], file: Path, where: str) -> None:
    if missing := sorted(fields - values.keys()):
        raise ValueError(
            f"{file} has no {' and no '.join(missing)}, {where}; copy the whole file, or give --pixels in its place"
        )
