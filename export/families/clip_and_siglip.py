"""Hugging Face's pairs of towers: CLIP, SigLIP and SigLIP 2.

In front of the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Names are those of the files that save_pretrained writes. Sizes come from the tensors' shapes; what no shape shows comes
from config.json, and from the class's defaults where that leaves a field out, as files on model hubs do. SigLIP 2 with
a fixed resolution calls itself `siglip`; `siglip2` is the one with a free aspect ratio, taken here for squares.
"""

from collections.abc import Mapping
from typing import Any

from export.families.hugging_face import activation_of, heads_of
from export.families.plan import Choices, Plan, grid, with_positions
from export.families.positions import Resampling
from export.families.rules import Rule, fused_rules, torch_rules
from export.families.weights import Weights
from vit22b.config import ModelConfig, TextConfig, ViTConfig

_PATCHES = "vision_model.embeddings.patch_embedding.weight"
_POSITIONS = "vision_model.embeddings.position_embedding.weight"
_TEXT_POSITIONS = "text_model.embeddings.position_embedding.weight"
_TOKENS = "text_model.embeddings.token_embedding.weight"
_VISION_LAYER = "vision_model.encoder.layers.{}."
_TEXT_LAYER = "text_model.encoder.layers.{}."
_POOL = "vision_model.head."
_BLOCK = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_out": "self_attn.out_proj",
    "norm": "layer_norm1",
    "mlp_norm": "layer_norm2",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}
_BOTH = {
    **torch_rules("image/blocks", _VISION_LAYER, _BLOCK),
    **torch_rules("text/blocks", _TEXT_LAYER, _BLOCK),
    **torch_rules("image", "vision_model.", {"pre_norm": "pre_layrnorm", "final_norm": "post_layernorm"}),
    **torch_rules("text", "text_model.", {"final_norm": "final_layer_norm"}),
    "image/class_token": Rule("vision_model.embeddings.class_embedding"),
    "image/position_embedding": Rule(_POSITIONS),
    "image/patch_projection/bias": Rule("vision_model.embeddings.patch_embedding.bias"),
    "text/token_embedding": Rule(_TOKENS),
    "text/position_embedding": Rule(_TEXT_POSITIONS),
    "logit_scale": Rule("logit_scale"),
    "logit_bias": Rule("logit_bias"),
}
_CLIP = {
    **_BOTH,
    "image/patch_projection/kernel": Rule(_PATCHES, "convolution"),
    **torch_rules("image", "", {"projection": "visual_projection"}),
    **torch_rules("text", "", {"projection": "text_projection"}),
}
_SIGLIP = {
    **_CLIP,
    **torch_rules("text", "text_model.", {"projection": "head"}),
    **fused_rules(
        "image/pool", ("query", "key", "value"), _POOL + "attention.in_proj_weight", _POOL + "attention.in_proj_bias"
    ),
    **torch_rules(
        "image/pool",
        _POOL,
        {"attention_out": "attention.out_proj", "norm": "layernorm", "mlp_in": "mlp.fc1", "mlp_out": "mlp.fc2"},
    ),
    "image/pool/probe": Rule(_POOL + "probe"),
}
_SIGLIP2 = {**_SIGLIP, "image/patch_projection/kernel": Rule(_PATCHES, "linear")}
_SKIP = ("*.position_ids",)


def clip(weights: Weights, choices: Choices) -> Plan:
    """Works out the import of a CLIP: class token, norm before the first block, causal texts, softmax."""
    choices.require_unset("CLIP", "architecture", "pooling")
    projection = weights.shape("visual_projection.weight")[0]
    vision, text = _sub(weights, "vision_config"), _sub(weights, "text_config")
    form = {"pre_norm": True, "class_token": True, "class_position": True, "pooling": "class", "projection": projection}
    image = _image(weights, vision, choices, activation="quick_gelu", epsilon=1e-5, **form)
    vocabulary = weights.shape(_TOKENS)[0]
    end = text.get("eos_token_id", vocabulary - 1)
    words = _text(
        weights,
        text,
        heads=8,
        activation="quick_gelu",
        epsilon=1e-5,
        projection=projection,
        causal=True,
        pooling="end",
        # 2 is a known slip in CLIP's first config.json: its tower pools the largest id, and that ends a text.
        end_id=vocabulary - 1 if end == 2 else end,
    )
    return Plan("clip", ModelConfig(image, text=words), _resampled(weights, image, "bicubic"), _CLIP, _SKIP)


def siglip(weights: Weights, choices: Choices) -> Plan:
    """Works out the import of a SigLIP or SigLIP 2: MAP head, texts read both ways, sigmoid."""
    choices.require_unset("SigLIP", "architecture", "pooling")
    linear = len(weights.shape(_PATCHES)) == 2
    vision, text = _sub(weights, "vision_config"), _sub(weights, "text_config")
    image = _image(weights, vision, choices, activation="gelu_pytorch_tanh", epsilon=1e-6, pooling="map")
    words = _text(
        weights,
        text,
        heads=12,
        activation="gelu_pytorch_tanh",
        epsilon=1e-6,
        projection=weights.shape("text_model.head.weight")[0],
        projection_bias=True,
    )
    return Plan(
        "siglip2" if linear else "siglip",
        ModelConfig(image, text=words, similarity="sigmoid"),
        _resampled(weights, image, "antialiased_linear" if linear else "bicubic"),
        _SIGLIP2 if linear else _SIGLIP,
        _SKIP,
    )


def _image(
    weights: Weights, config: Mapping[str, Any], choices: Choices, *, activation: str, epsilon: float, **form: Any
) -> ViTConfig:
    patches = weights.shape(_PATCHES)
    patch = patches[2] if len(patches) == 4 else config.get("patch_size", 16)
    leading = int(form.get("class_token", False))
    resolution = grid(weights, _POSITIONS, leading, patch, choices.resolution)
    return ViTConfig(
        **_block(weights, _VISION_LAYER, heads_of(config, choices, 12)),
        activation=choices.activation or activation_of(config, activation),
        norm_epsilon=choices.norm_epsilon or config.get("layer_norm_eps", epsilon),
        patch=patch,
        resolution=resolution,
        patch_bias="vision_model.embeddings.patch_embedding.bias" in weights.shapes,
        **form,
    )


def _text(
    weights: Weights, config: Mapping[str, Any], *, heads: int, activation: str, epsilon: float, **form: Any
) -> TextConfig:
    return TextConfig(
        **_block(weights, _TEXT_LAYER, config.get("num_attention_heads", heads)),
        activation=activation_of(config, activation),
        norm_epsilon=config.get("layer_norm_eps", epsilon),
        vocabulary=weights.shape(_TOKENS)[0],
        length=weights.shape(_TEXT_POSITIONS)[0],
        **form,
    )


def _block(weights: Weights, layer: str, heads: int) -> dict[str, Any]:
    mlp_dim, width = weights.shape(layer.format(0) + "mlp.fc1.weight")
    return {
        "width": width,
        "depth": weights.depth(layer + "mlp.fc1.weight"),
        "mlp_dim": mlp_dim,
        "heads": heads,
        "block": "sequential",
        "norm": "layer",
        "attention_bias": True,
        "qk_norm": False,
    }


def _resampled(weights: Weights, image: ViTConfig, how: Resampling) -> Weights:
    return with_positions(weights, _POSITIONS, image.tokens, int(image.class_token), how)


def _sub(weights: Weights, name: str) -> Mapping[str, Any]:
    found = weights.config.get(name)
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{weights.path} has no config.json with {name} beside it: no tensor shows a tower's attention heads, its "
            "activation and the epsilon of its norms; copy config.json there from where the weights are from"
        )
    return found
