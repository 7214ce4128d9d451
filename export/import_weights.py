"""Import: weights that people have in, a checkpoint out, which is exported and served like any other.

    .venv/bin/python export/import_weights.py --source clip-vit-base-patch32/ --output build/clip
    .venv/bin/python export/to_savedmodel.py --checkpoint build/clip --output build/models/clip

The source is a folder as save_pretrained writes it, or a file: safetensors, big_vision's .npz, or ONNX. The family and
the sizes come from it; docs/import.md lists the families and what was compared. Nothing is downloaded.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

import jax

from export.families import big_vision, clip_and_siglip, timm_vit, vit_and_dino
from export.families.pixels import Preset, preset, read_pixels
from export.families.plan import Choices, Plan
from export.families.rules import assemble
from export.families.texts import read_tokenizer
from export.families.weights import Weights, open_weights
from vit22b import program
from vit22b.checkpoint import Checkpoints, Trained
from vit22b.description import Description, git_revision
from vit22b.model import abstract
from vit22b.preprocess import Preprocess
from vit22b.prompts import read_names
from vit22b.tree import parameter_count

Family = Literal["auto", "vit", "dinov2", "clip", "siglip", "timm", "big_vision"]

_PLANS: Mapping[str, Callable[[Weights, Choices], Plan]] = {
    "vit": vit_and_dino.plan,
    "dinov2": vit_and_dino.plan,
    "clip": clip_and_siglip.clip,
    "siglip": clip_and_siglip.siglip,
    "timm": timm_vit.plan,
    "big_vision": big_vision.plan,
}
# By model_type of a config.json.
_TYPES: Mapping[str, Family] = {
    "vit": "vit",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "clip": "clip",
    "siglip": "siglip",
    "siglip2": "siglip",
}
# By the end of a name that only that family has, where there is no config.json.
_SIGNS: Mapping[str, Family] = {
    "embedding/kernel": "big_vision",
    "embeddings.patch_embeddings.projection.weight": "vit",
    "patch_embed.proj.weight": "timm",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Make a checkpoint of weights from elsewhere."""

    source: Path
    """A folder with config.json and safetensors, or a .safetensors, .npz or .onnx file."""
    output: Path
    """Work directory to write; it must have no checkpoint yet."""
    family: Family = "auto"
    """Whose names the tensors have; auto: as the files say."""
    pixels: Preset | None = None
    """How images are prepared, where no file says so, or in place of what it says. symmetric: squashed to a square, in
    [-1, 1]; imagenet: the middle 7/8, ImageNet's mean; clip: the middle square, CLIP's mean."""
    tokenizer: Path | None = None
    """tokenizer.json of a text tower; by default the one beside the weights."""
    labels: Path | None = None
    """Names of the head's classes, a line each, where no config.json has them."""
    skip: tuple[str, ...] = ()
    """Names of tensors, as the file has them, that shall not be taken over; * stands for anything."""
    choices: Choices = dataclasses.field(default_factory=Choices)


def convert(settings: Settings) -> None:
    """Reads the source and writes the checkpoint.

    Raises:
        ValueError: the source is of no offered family, or does not fit; nothing is written then.
        OSError: the checkpoint cannot be written.
    """
    with Checkpoints(settings.output) as checkpoints:
        if checkpoints.latest() is not None:
            raise ValueError(f"{settings.output} has checkpoints already; give another --output")
    weights = _opened(settings)
    folder = settings.source if settings.source.is_dir() else settings.source.parent
    told = None if settings.pixels else read_pixels(folder, weights.config)
    choices = settings.choices
    choices = dataclasses.replace(choices, resolution=choices.resolution or (told.resolution if told else None))
    plan = _PLANS[_family(weights, settings.family)](weights, choices)
    config = plan.config
    params = assemble(plan.weights.without(plan.skip), plan.rules, abstract(config)[1])
    description = Description(
        config=config,
        preprocess=_preprocess(settings, told, plan),
        labels=_labels(settings, plan),
        tokenizer=read_tokenizer(settings.tokenizer or folder / "tokenizer.json", config.text) if config.text else None,
        git_revision=git_revision(),
    )
    source = {"checkpoint": str(settings.source.absolute()), "family": plan.family}
    source["space_id"] = Trained(description, 0, params).space_id
    description = dataclasses.replace(description, source=source)
    with Checkpoints(settings.output, keep=1) as checkpoints:  # a number: what a killed import left is removed
        checkpoints.save(0, {"params": params}, {"step": 0}, description)
    parts = [part for part, there in (("head", config.classes), ("text tower", config.text)) if there]
    print(
        f"{settings.output}: {plan.family}, {parameter_count(params):,} parameters, {config.image.resolution} px"
        + "".join(f", {part}" for part in parts)
    )


def _opened(settings: Settings) -> Weights:
    """The source less what shall be skipped."""
    weights = open_weights(settings.source)
    for pattern in settings.skip:
        if weights.without([pattern]).shapes.keys() == weights.shapes.keys():
            names = ", ".join(sorted(weights.shapes)[:6])
            raise ValueError(f"--skip {pattern} is the name of no tensor of {weights.path}; it has {names} ...")
    return weights.without(settings.skip)


def _family(weights: Weights, asked: Family) -> Family:
    """The family that was asked for, or the one that the files show."""
    if asked != "auto":
        return asked
    offered = f"offered are {', '.join(name for name in get_args(Family) if name != 'auto')}"
    if kind := weights.config.get("model_type"):
        if kind not in _TYPES:
            raise ValueError(f"{weights.path} is a {kind}, which is not offered; {offered} (--family, if it is one)")
        return _TYPES[kind]
    if "architecture" in weights.config:
        return "timm"
    for sign, family in _SIGNS.items():
        if any(name.endswith(sign) for name in weights.shapes):
            return family
    names = ", ".join(sorted(weights.shapes)[:6])
    raise ValueError(
        f"{weights.path} is of no known family: there is no config.json, and its names are {names} ...; {offered}"
    )


def _preprocess(settings: Settings, told: Preprocess | None, plan: Plan) -> Preprocess:
    resolution = plan.config.image.resolution
    if settings.pixels:
        return preset(settings.pixels, resolution)
    if told is not None:
        return dataclasses.replace(told, resolution=resolution)
    if plan.family.endswith("(big_vision)"):  # its files say nothing, and its models all take this
        return preset("symmetric", resolution)
    raise ValueError(
        f"no file beside {settings.source} says how images are prepared for it (preprocessor_config.json, or "
        f"pretrained_cfg in config.json); give --pixels {'|'.join(get_args(Preset))}"
    )


def _labels(settings: Settings, plan: Plan) -> tuple[str, ...]:
    if settings.labels is None:
        return plan.labels
    names = read_names(settings.labels)
    if len(names) != plan.config.classes:
        raise ValueError(f"{settings.labels} has {len(names)} names, the head {plan.config.classes} classes")
    return tuple(names)


if __name__ == "__main__":
    # Reading weights needs no accelerator, and must not take one from a training run on the same host.
    jax.config.update("jax_platforms", "cpu")
    program.run(convert, Settings, __doc__)
