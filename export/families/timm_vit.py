"""timm's vision transformers, from safetensors or from ONNX files that keep their names.

In front of the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Most of a model shows in its tensors. Its heads, its activation and the epsilon of its norms do not: timm has them in
the architecture's code, so that they are told by its name here (read off timm 1.0.31), and can be given.
"""

import re
from collections.abc import Mapping
from typing import Any

from export.families.plan import Choices, Plan, grid, labels_of, with_positions
from export.families.rules import Rule, fused_rules, torch_rules
from export.families.weights import Weights
from vit22b.block_config import Activation
from vit22b.config import ModelConfig, Pooling, ViTConfig

_ANCHOR = "patch_embed.proj.weight"
_LAYER = "blocks.{}."
_MLP = {"mlp_in": "mlp.fc1", "mlp_out": "mlp.fc2"}
_BLOCK = {
    **_MLP,
    "norm": "norm1",
    "query_norm": "attn.q_norm",
    "key_norm": "attn.k_norm",
    "attention_out": "attn.proj",
    "attention_scale": "ls1.gamma",
    "mlp_norm": "norm2",
    "mlp_scale": "ls2.gamma",
}
_POOL = {**_MLP, "query": "q", "attention_out": "proj", "norm": "norm"}
_RULES = {
    **torch_rules("image/blocks", _LAYER, _BLOCK),
    **fused_rules("image/blocks", ("query", "key", "value"), _LAYER + "attn.qkv.weight", _LAYER + "attn.qkv.bias"),
    **torch_rules("image/pool", "attn_pool.", _POOL),
    **fused_rules("image/pool", ("key", "value"), "attn_pool.kv.weight", "attn_pool.kv.bias"),
    **torch_rules("image", "", {"pre_norm": "norm_pre", "final_norm": "norm"}),
    "image/pool/probe": Rule("attn_pool.latent"),
    "image/class_token": Rule("cls_token"),
    "image/registers": Rule("reg_token"),
    "image/position_embedding": Rule("pos_embed"),
    "image/patch_projection/kernel": Rule(_ANCHOR, "convolution"),
    "image/patch_projection/bias": Rule("patch_embed.proj.bias"),
    "head/kernel": Rule("head.weight", "linear"),
    "head/bias": Rule("head.bias"),
}
_NORM_POOLED = torch_rules("image", "", {"final_norm": "fc_norm"})
_POOLINGS: Mapping[str, Pooling] = {"token": "class", "avg": "mean", "map": "map"}

# Blocks of other forms, some with the very same names of tensors; the second line has rotary positions in its code.
_REFUSED = re.compile(
    r"^beit|^aimv2|radio|_rpn_|_xp_|x2_|pwee|_dwee|_dlittle"
    r"|^eva|_pe_|_rope_|dinov3|lingbot|sapiens2"
)
_TANH = re.compile(r"giantopt|base_patch32_siglip|so400m_patch16_siglip|large_patch16_siglip(_gap)?_512")
_ODD_HEADS = {"vit_base_patch16_gap_224": 16}
_NARROW = (192, 256, 320, 384, 512, 640, 768, 832, 896, 1024)  # widths of heads of 64
_WIDE = (1152, 1280, 1408, 1536, 1664)  # widths of 16 heads
_ACTIVATIONS: Mapping[str, Activation] = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}


def plan(weights: Weights, choices: Choices) -> Plan:
    """Works out the import of a vision transformer of timm.

    Raises:
        ValueError: it has a part that our model has not, or something that no file tells was not given.
    """
    weights = weights.without_prefix(_ANCHOR)
    # Behind the point is the weights' tag.
    name, _, _ = str(choices.architecture or weights.config.get("architecture", "")).partition(".")
    if _REFUSED.search(name):
        raise ValueError(f"{name} has blocks of another form, which are not offered")
    if _LAYER.format(0) + "mlp.w12.weight" in weights.shapes or _is_gated(weights):
        raise ValueError(f"{weights.path} has SwiGLU in its MLPs, which is not offered")
    width, _, patch, _ = weights.shape(_ANCHOR)
    weights, leading = _with_leading_folded(weights)
    resolution = grid(weights, "pos_embed", leading, patch, choices.resolution)
    classes = weights.shapes.get("head.weight", (0, width))[0]
    arguments = weights.config.get("model_args", {})
    norm_pooled = "fc_norm.weight" in weights.shapes
    image = ViTConfig(
        width=width,
        depth=weights.depth(_LAYER + "attn.proj.weight"),
        mlp_dim=weights.shape(_LAYER.format(0) + "mlp.fc1.weight")[0],
        heads=_heads(choices, arguments, name, width),
        patch=patch,
        resolution=resolution,
        pooling=_pooling(weights, choices, arguments),
        patch_bias="patch_embed.proj.bias" in weights.shapes,
        class_token="cls_token" in weights.shapes,
        class_position=leading == 1,
        registers=weights.shapes.get("reg_token", (1, 0, width))[1],
        pre_norm="norm_pre.weight" in weights.shapes,
        norm_pooled=norm_pooled,
        block="sequential",
        norm="layer" if _LAYER.format(0) + "norm1.bias" in weights.shapes else "rms",
        norm_epsilon=choices.norm_epsilon or (1e-5 if "_clip_" in name else 1e-6),
        attention_bias=_LAYER.format(0) + "attn.qkv.bias" in weights.shapes,
        activation=choices.activation or _activation(arguments, name),
        layer_scale=_LAYER.format(0) + "ls1.gamma" in weights.shapes,
        qk_norm=_LAYER.format(0) + "attn.q_norm.weight" in weights.shapes,
    )
    return Plan(
        family="timm",
        config=ModelConfig(image, classes),
        weights=with_positions(weights, "pos_embed", image.tokens, leading, "antialiased"),
        rules={**_RULES, **_NORM_POOLED} if norm_pooled else _RULES,
        skip=("mask_token",),
        labels=labels_of({**weights.config, **weights.config.get("pretrained_cfg", {})}, classes),
    )


def _with_leading_folded(weights: Weights) -> tuple[Weights, int]:
    """The weights and how many rows of the positions are of no patch.

    Where registers have positions, each is added to its token for good, the class token's too: our registers have none.
    """
    tokens = {name: weights.shapes[name][1] for name in ("cls_token", "reg_token") if name in weights.shapes}
    rows, count = weights.shape("pos_embed")[1], sum(tokens.values())
    side = round((rows - count) ** 0.5)
    if count == 0 or side * side != rows - count or round(rows**0.5) ** 2 == rows:
        return weights, 0
    if "reg_token" not in tokens:
        return weights, count
    table, start, folded = weights.read("pos_embed"), 0, {}
    for name, size in tokens.items():
        folded[name] = weights.read(name) + table[:, start : start + size]
        start += size
    return weights.replaced({**folded, "pos_embed": table[:, start:]}), 0


def _is_gated(weights: Weights) -> bool:
    """Whether the MLP's first map makes twice what its second takes."""
    first = weights.shape(_LAYER.format(0) + "mlp.fc1.weight")[0]
    return first != weights.shape(_LAYER.format(0) + "mlp.fc2.weight")[1]


def _heads(choices: Choices, arguments: Mapping[str, Any], name: str, width: int) -> int:
    known = choices.heads or arguments.get("num_heads") or _ODD_HEADS.get(name)
    if known:
        return int(known)
    if name.startswith(("vit_", "deit", "flexivit")):
        if width in _NARROW:
            return width // 64
        if width in _WIDE:
            return 16
    raise ValueError(
        f"the number of attention heads shows in no tensor, and {name or 'a model without a name'} of width {width} is "
        "not known; give --heads, or --architecture as timm names it"
    )


def _activation(arguments: Mapping[str, Any], name: str) -> Activation:
    if given := arguments.get("act_layer"):
        if given not in _ACTIVATIONS:
            raise ValueError(f"act_layer is {given!r}; expected one of {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[given]
    if "quickgelu" in name:
        return "quick_gelu"
    return "gelu_tanh" if _TANH.search(name) else "gelu"


def _pooling(weights: Weights, choices: Choices, arguments: Mapping[str, Any]) -> Pooling:
    if choices.pooling:
        return choices.pooling
    if "attn_pool.latent" in weights.shapes:
        return "map"
    named = arguments.get("global_pool") or weights.config.get("global_pool")
    if named and named not in _POOLINGS:
        raise ValueError(f"global_pool is {named!r}; expected one of {', '.join(_POOLINGS)}")
    if named:
        return _POOLINGS[named]
    return "class" if "cls_token" in weights.shapes and "fc_norm.weight" not in weights.shapes else "mean"
