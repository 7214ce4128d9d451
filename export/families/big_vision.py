"""big_vision's .npz files: its ViTs, the older ones of "How to train your ViT", and SigLIP's two towers.

In front of the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Kernels are in Flax's layout, which is ours, so that shapes tell everything, the heads too. Norms have Flax's epsilon
1e-6 and the MLP Flax's GELU, the tanh approximation. Layers are numbered, or stacked where the model was scanned.
"""

import re
from typing import Any

from export.families.plan import Choices, Plan, grid, with_positions
from export.families.rules import LAYER, Rule
from export.families.weights import Weights
from vit22b.config import ModelConfig, TextConfig, ViTConfig

_ATTENTION = "MultiHeadDotProductAttention_0/"
_PARTS = {
    "query": _ATTENTION + "query",
    "key": _ATTENTION + "key",
    "value": _ATTENTION + "value",
    "attention_out": _ATTENTION + "out",
    "mlp_in": "MlpBlock_0/Dense_0",
    "mlp_out": "MlpBlock_0/Dense_1",
}
_BLOCK = {**_PARTS, "norm": "LayerNorm_0", "mlp_norm": "LayerNorm_1"}
_POOL = {**_PARTS, "norm": "LayerNorm_0"}
# The older files, by the newer name.
_RENAMED = {
    "Transformer/posembed_input/pos_embedding": "pos_embedding",
    "MultiHeadDotProductAttention_1/": _ATTENTION,
    "MlpBlock_3/": "MlpBlock_0/",
    "/LayerNorm_2/": "/LayerNorm_1/",
}
_FORM: dict[str, Any] = {
    "block": "sequential",
    "norm": "layer",
    "norm_epsilon": 1e-6,
    "attention_bias": True,
    "activation": "gelu_tanh",
    "qk_norm": False,
}


def plan(weights: Weights, choices: Choices) -> Plan:
    """Works out the import of a .npz of big_vision.

    Raises:
        ValueError: it has a part that our model has not.
    """
    choices.require_unset("file of big_vision", "architecture", "heads", "activation", "norm_epsilon")
    weights = weights.renamed(_newer)
    two = any(name.startswith("txt/") for name in weights.shapes)
    img = "img/" if two or any(name.startswith("img/") for name in weights.shapes) else ""
    image = _image(weights, img, choices)
    text = _text(weights) if two else None
    classes = 0 if two else weights.shapes.get(f"{img}head/kernel", (0, 0))[1]
    rules = {
        **_tower("image", f"{img}Transformer/", weights),
        **_tower("text", "txt/Encoder_0/", weights),
        **_flax("image/pool", f"{img}MAPHead_0/", _POOL),
        **_flax("image", img, {"patch_projection": "embedding"}),
        **_flax("text", "txt/", {"projection": "head"}),
        **_flax("", img, {"head": "head"}),
        "image/pool/probe": Rule(f"{img}MAPHead_0/probe"),
        "image/class_token": Rule(f"{img}cls"),
        "image/position_embedding": Rule(f"{img}pos_embedding"),
        "image/projection/kernel": Rule(f"{img}head/kernel"),
        "text/token_embedding": Rule("txt/Embed_0/embedding"),
        "text/position_embedding": Rule("txt/pos_embedding"),
        "logit_scale": Rule("t"),
        "logit_bias": Rule("b"),
    }
    config = ModelConfig(image, classes, text, "sigmoid" if two and "b" in weights.shapes else "softmax")
    table = f"{img}pos_embedding"
    resized = with_positions(weights, table, image.tokens, int(image.class_position), "zoom")
    return Plan("siglip (big_vision)" if two else "vit (big_vision)", config, resized, rules, ("opt/*",))


def _image(weights: Weights, img: str, choices: Choices) -> ViTConfig:
    patch = weights.shape(f"{img}embedding/kernel")[0]
    own = f"{img}cls" in weights.shapes
    table = f"{img}pos_embedding"
    side = round((weights.shape(table)[-2] - own) ** 0.5)
    positioned = own and side * side == weights.shape(table)[-2] - own
    resolution = grid(weights, table, int(positioned), patch, choices.resolution)
    if any(name.startswith(f"{img}pre_logits/") for name in weights.shapes):
        raise ValueError(
            f"{weights.path} has a layer pre_logits before its head, which is not offered; take one without"
        )
    return ViTConfig(
        **_sizes(weights, f"{img}Transformer/"),
        patch=patch,
        resolution=resolution,
        pooling="map" if f"{img}MAPHead_0/probe" in weights.shapes else choices.pooling or ("class" if own else "mean"),
        class_token=own,
        class_position=positioned,
        projection=weights.shapes.get("img/head/kernel", (0, 0))[1] if "t" in weights.shapes else 0,
        **_FORM,
    )


def _text(weights: Weights) -> TextConfig:
    return TextConfig(
        **_sizes(weights, "txt/Encoder_0/"),
        vocabulary=weights.shape("txt/Embed_0/embedding")[0],
        projection=weights.shape("txt/head/kernel")[1],
        projection_bias="txt/head/bias" in weights.shapes,
        length=weights.shape("txt/pos_embedding")[-2],
        **_FORM,
    )


def _sizes(weights: Weights, tower: str) -> dict[str, Any]:
    layer = _layer(weights, tower)
    kernel = f"{layer}MlpBlock_0/Dense_0/kernel"
    depth = weights.depth(kernel) if LAYER in kernel else weights.shape(kernel)[0]
    width, mlp_dim = weights.shape(kernel.format(0))[-2:]
    heads = weights.shape(f"{layer}{_ATTENTION}query/kernel".format(0))[-2]
    return {"width": width, "depth": depth, "mlp_dim": mlp_dim, "heads": heads}


def _tower(ours: str, theirs: str, weights: Weights) -> dict[str, Rule]:
    return {
        **_flax(f"{ours}/blocks", _layer(weights, theirs), _BLOCK),
        **_flax(ours, theirs, {"final_norm": "encoder_norm"}),
    }


def _layer(weights: Weights, tower: str) -> str:
    stacked = any(name.startswith(f"{tower}encoderblock/") for name in weights.shapes)
    return f"{tower}encoderblock/" if stacked else f"{tower}encoderblock_{LAYER}/"


def _flax(ours: str, theirs: str, modules: dict[str, str]) -> dict[str, Rule]:
    """The rules of Flax's modules, whose leaves have our names and layout."""
    return {
        f"{ours}/{part}/{leaf}".lstrip("/"): Rule(f"{theirs}{module}/{leaf}")
        for part, module in modules.items()
        for leaf in (("scale", "bias") if part.endswith("norm") else ("kernel", "bias"))
    }


def _newer(name: str) -> str:
    """A name without the roots that checkpoints have, an older one as the newer."""
    name = re.sub(r"^(opt/target/|params/)", "", name)
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name
