"""Parity cases of timm: vision transformers as its users save them for a hub."""

import functools
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from export.families.plan import Choices
from tests.parity.reference import (
    SIDE,
    Case,
    Reference,
    as_input,
    at_resolution,
    quietly,
    random_pixels,
    randomised,
    unit,
)

_SMALL = {"img_size": SIDE, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "num_classes": 7}
_REGISTERS = {"reg_tokens": 4, "no_embed_class": True}


def _timm(folder: Path, architecture: str, side: int = SIDE, **options: Any) -> Reference:
    """A model of an architecture whose name tells how it runs, made small."""
    model = randomised(timm.create_model(architecture, **{**_SMALL, **options}))
    # Hub folders have the arguments that differ from the architecture's; heads are among them here.
    save_for_hf(model, folder, safe_serialization=True, model_args={**_SMALL, **options})
    return Reference(folder, answers(model, side), random_pixels(side), settings=at_resolution(side))


def _alone(folder: Path) -> Reference:
    """A safetensors file alone: the name is said on the command line."""
    model = randomised(timm.create_model("vit_tiny_patch16_224", img_size=SIDE, patch_size=8, depth=2, num_classes=7))
    folder.mkdir()
    save_file(model.state_dict(), folder / "tiny.safetensors")
    settings = _choices(architecture="vit_tiny_patch16_224") | {"pixels": "symmetric"}
    return Reference(folder / "tiny.safetensors", answers(model), random_pixels(), settings=settings)


def answers(model: torch.nn.Module, side: int = SIDE) -> dict[str, Any]:
    """Embedding, tokens and logits of a model of timm."""
    images = as_input(random_pixels(side), model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    if side != SIDE:
        model.set_input_size(img_size=side)
    with torch.no_grad():
        tokens = model.forward_features(images)
        outputs = {
            "tokens": tokens[:, model.num_prefix_tokens :].numpy(),
            "embedding": unit(model.forward_head(tokens, pre_logits=True)),
        }
        if model.num_classes:
            outputs["logits"] = model.forward_head(tokens).numpy()
    return outputs


def _choices(**values: Any) -> dict[str, Any]:
    return {"choices": Choices(**values)}


def _case(model: str, architecture: str, **options: Any) -> Case:
    return Case("timm", model, functools.partial(quietly, _timm, architecture=architecture, **options))


CASES = (
    _case("vit, class token", "vit_base_patch16_224"),
    _case("vit, positions resampled", "vit_base_patch16_224", side=24),
    _case("vit, LayerScale and registers (dinov2)", "vit_small_patch14_reg4_dinov2", init_values=1.0, **_REGISTERS),
    _case("vit, mean and registers", "vit_medium_patch16_reg4_gap_256"),
    _case("vit, registers with positions", "vit_so150m2_patch16_reg1_gap_256"),
    _case("vit, MAP (siglip)", "vit_base_patch16_siglip_256", num_classes=0),
    _case("vit, MAP and tanh (siglip)", "vit_so400m_patch16_siglip_256", num_classes=0),
    _case("vit, mean behind the norm (siglip gap)", "vit_base_patch16_siglip_gap_256"),
    _case("vit, MAP and registers", "vit_so150m_patch16_reg4_map_256"),
    _case("vit, norm before (clip)", "vit_base_patch16_clip_224"),
    _case("vit, norm before (clip quickgelu)", "vit_base_patch16_clip_quickgelu_224"),
    _case("vit, QK norm and RMS norms", "test_vit4"),
    Case("timm", "safetensors alone", functools.partial(quietly, _alone)),
)
