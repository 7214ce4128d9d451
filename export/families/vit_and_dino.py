"""Hugging Face's plain image towers: ViT, DINOv2 and DINOv2 with registers.

In front of the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Names are those of the files that save_pretrained writes (transformers 4 and 5 write the same), and of ONNX files that
keep them. The embedding is the class token behind the final norm, `last_hidden_state[:, 0]`.
"""

import re

from export.families.hugging_face import activation_of, heads_of
from export.families.plan import Choices, Plan, grid, labels_of, with_positions
from export.families.rules import Rule, torch_rules
from export.families.weights import Weights
from vit22b.config import ModelConfig, ViTConfig

_ANCHOR = "embeddings.patch_embeddings.projection.weight"
_POSITIONS = "embeddings.position_embeddings"
_LAYER = "encoder.layer.{}."
_ATTENTION = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "attention_out": "attention.output.dense",
}
_VIT = {
    **_ATTENTION,
    "norm": "layernorm_before",
    "mlp_norm": "layernorm_after",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
}
_DINO = {
    **_ATTENTION,
    "norm": "norm1",
    "mlp_norm": "norm2",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
    "attention_scale": "layer_scale1.lambda1",
    "mlp_scale": "layer_scale2.lambda1",
}
# Modules of transformers 5, by the names that its files keep from 4; ONNX files have them as they are.
_RENAMED = (
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)
_AROUND = {
    "image/class_token": Rule("embeddings.cls_token"),
    "image/registers": Rule("embeddings.register_tokens"),
    "image/position_embedding": Rule(_POSITIONS),
    "image/patch_projection/kernel": Rule(_ANCHOR, "convolution"),
    "image/patch_projection/bias": Rule("embeddings.patch_embeddings.projection.bias"),
    **torch_rules("image", "", {"final_norm": "layernorm"}),
    "head/kernel": Rule("classifier.weight", "linear"),
    "head/bias": Rule("classifier.bias"),
}
# The pooler of ViTModel is a layer behind the class token that no classifier uses; masks are of pretraining.
_SKIP = ("pooler.dense.*", "embeddings.mask_token", "*.position_ids")


def plan(weights: Weights, choices: Choices) -> Plan:
    """Works out the import of a ViT or DINOv2 of Hugging Face.

    Raises:
        ValueError: it has a part that our model has not.
    """
    choices.require_unset("model of Hugging Face", "architecture")
    weights = weights.without_prefix(_ANCHOR).renamed(_older)
    config = weights.config
    dino = _LAYER.format(0) + "layer_scale1.lambda1" in weights.shapes
    if config.get("use_swiglu_ffn") or _LAYER.format(0) + "mlp.weights_in.weight" in weights.shapes:
        raise ValueError(f"{weights.path} has SwiGLU in its MLPs (DINOv2 giant), which is not offered")
    width, _, patch, _ = weights.shape(_ANCHOR)
    resolution = grid(weights, _POSITIONS, 1, patch, choices.resolution)
    registers = weights.shapes.get("embeddings.register_tokens", (1, 0, width))[1]
    newer = {"mlp_in": "mlp.fc1", "mlp_out": "mlp.fc2"} if _LAYER.format(0) + "mlp.fc1.weight" in weights.shapes else {}
    modules = _DINO if dino else {**_VIT, **newer}
    classes = weights.shapes.get("classifier.weight", (0, width))[0]
    image = ViTConfig(
        width=width,
        depth=weights.depth(_LAYER + "attention.output.dense.bias"),
        mlp_dim=weights.shape(_LAYER.format(0) + modules["mlp_in"] + ".bias")[0],
        heads=heads_of(config, choices, 12 if config else None),
        patch=patch,
        resolution=resolution,
        pooling=choices.pooling or "class",
        class_token=True,
        class_position=True,
        registers=registers,
        block="sequential",
        norm="layer",
        norm_epsilon=choices.norm_epsilon or config.get("layer_norm_eps", 1e-6 if dino else 1e-12),
        attention_bias=_LAYER.format(0) + "attention.attention.query.bias" in weights.shapes,
        activation=choices.activation or activation_of(config, "gelu"),
        layer_scale=dino,
        qk_norm=False,
    )
    return Plan(
        family=("dinov2_with_registers" if registers else "dinov2") if dino else "vit",
        config=ModelConfig(image, classes),
        weights=with_positions(weights, _POSITIONS, image.tokens, 1, "antialiased" if registers else "bicubic"),
        rules={**_AROUND, **torch_rules("image/blocks", _LAYER, modules)},
        skip=_SKIP,
        labels=labels_of(config, classes),
    )


def _older(name: str) -> str:
    for new, old in _RENAMED:
        name = re.sub(new, old, name)
    return name
