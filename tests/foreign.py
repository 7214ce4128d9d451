"""Weights in the layouts of others, written out by hand from a tree of ours, which an import has to give back."""

import dataclasses
import json

import numpy as np
from safetensors.numpy import save_file

from tests.towers import random_params
from vit22b.config import ModelConfig, TextConfig, ViTConfig
from vit22b.tokenizer import train_tokenizer

BLOCK = {"block": "sequential", "norm": "layer", "attention_bias": True, "qk_norm": False}
IMAGE = ViTConfig(
    16, 2, 24, 2, 4, 8, pooling="class", class_token=True, class_position=True, activation="gelu", **BLOCK
)
DINO = ModelConfig(dataclasses.replace(IMAGE, layer_scale=True, registers=3))
VIT = ModelConfig(dataclasses.replace(IMAGE, norm_epsilon=1e-12), classes=3)
CLIP = ModelConfig(
    dataclasses.replace(
        IMAGE, pre_norm=True, patch_bias=False, projection=10, activation="quick_gelu", norm_epsilon=1e-5
    ),
    text=TextConfig(
        12, 3, 20, 3, vocabulary=270, projection=10, length=7, causal=True, pooling="end", end_id=1,
        activation="quick_gelu", norm_epsilon=1e-5, **BLOCK,
    ),
)  # fmt: skip
TIMM = ModelConfig(dataclasses.replace(IMAGE, layer_scale=True, registers=1, class_position=False), classes=3)
BIG_VISION = ModelConfig(ViTConfig(16, 2, 24, 2, 4, 8, pooling="map", activation="gelu_tanh", **BLOCK), classes=3)
SIGLIP = ModelConfig(
    BIG_VISION.image,
    text=TextConfig(
        12, 3, 20, 3, vocabulary=270, projection=16, projection_bias=True, length=7, activation="gelu_tanh", **BLOCK
    ),
    similarity="sigmoid",
)
FLAX = {
    "query": "MultiHeadDotProductAttention_0/query",
    "key": "MultiHeadDotProductAttention_0/key",
    "value": "MultiHeadDotProductAttention_0/value",
    "attention_out": "MultiHeadDotProductAttention_0/out",
    "mlp_in": "MlpBlock_0/Dense_0",
    "mlp_out": "MlpBlock_0/Dense_1",
    "norm": "LayerNorm_0",
}
WORDS = ("a photo of a cat", "two dogs")
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SQUARE = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 8, "width": 8}}


def linear(kernel, inputs):
    """torch's [out, in] of a kernel whose leading axes are the inputs."""
    return kernel.reshape(inputs, -1).T


def patches(kernel, patch=4):
    """torch's convolution [D, channel, row, column] of our kernel [row x column x channel, D]."""
    return kernel.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)


def write(folder, tensors, **files):
    """A folder as save_pretrained leaves it."""
    folder.mkdir(parents=True)
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, folder / "model.safetensors")
    for name, values in files.items():
        (folder / f"{name}.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return folder


def hugging_face_layer(blocks, i, root, names):
    """One layer of our blocks under the names of modules in torch."""
    d = blocks["norm"]["scale"].shape[1]
    tensors = {}
    for ours, theirs in names.items():
        part = blocks[ours]
        if "kernel" in part:
            inputs = {"attention_out": d, "mlp_out": part["kernel"].shape[1]}.get(ours, d)
            tensors[f"{root}{theirs}.weight"] = linear(part["kernel"][i], inputs)
        else:
            tensors[f"{root}{theirs}.weight"] = part["scale"][i]
        tensors[f"{root}{theirs}.bias"] = part["bias"][i].reshape(-1)
    return tensors


def dino():
    """DINOv2 with registers: its tensors, the config.json, our tree."""
    params = random_params(DINO)
    image = params["image"]
    names = {
        "query": "attention.attention.query", "key": "attention.attention.key", "value": "attention.attention.value",
        "attention_out": "attention.output.dense", "norm": "norm1", "mlp_norm": "norm2", "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    }  # fmt: skip
    tensors = {
        "embeddings.cls_token": image["class_token"][None, None],
        "embeddings.mask_token": np.zeros((1, 16), np.float32),
        "embeddings.register_tokens": image["registers"][None],
        "embeddings.position_embeddings": image["position_embedding"][None],
        "embeddings.patch_embeddings.projection.weight": patches(image["patch_projection"]["kernel"]),
        "embeddings.patch_embeddings.projection.bias": image["patch_projection"]["bias"],
        "layernorm.weight": image["final_norm"]["scale"],
        "layernorm.bias": image["final_norm"]["bias"],
    }
    for i in range(2):
        root = f"encoder.layer.{i}."
        tensors |= hugging_face_layer(image["blocks"], i, root, names)
        tensors[f"{root}layer_scale1.lambda1"] = image["blocks"]["attention_scale"]["scale"][i]
        tensors[f"{root}layer_scale2.lambda1"] = image["blocks"]["mlp_scale"]["scale"][i]
    config = {"model_type": "dinov2_with_registers", "num_attention_heads": 2, "hidden_act": "gelu"}
    return tensors, {**config, "layer_norm_eps": 1e-6}, params


def vit():
    """A classifier of transformers: its tensors, the config.json, our tree."""
    params = random_params(VIT)
    image = params["image"]
    names = {
        "query": "attention.attention.query", "key": "attention.attention.key", "value": "attention.attention.value",
        "attention_out": "attention.output.dense", "norm": "layernorm_before", "mlp_norm": "layernorm_after",
        "mlp_in": "intermediate.dense", "mlp_out": "output.dense",
    }  # fmt: skip
    tensors = {
        "vit.embeddings.cls_token": image["class_token"][None, None],
        "vit.embeddings.position_embeddings": image["position_embedding"][None],
        "vit.embeddings.patch_embeddings.projection.weight": patches(image["patch_projection"]["kernel"]),
        "vit.embeddings.patch_embeddings.projection.bias": image["patch_projection"]["bias"],
        "vit.layernorm.weight": image["final_norm"]["scale"],
        "vit.layernorm.bias": image["final_norm"]["bias"],
        "classifier.weight": params["head"]["kernel"].T,
        "classifier.bias": params["head"]["bias"],
    }
    for i in range(2):
        tensors |= hugging_face_layer(image["blocks"], i, f"vit.encoder.layer.{i}.", names)
    labels = {"0": "cat", "1": "dog", "2": "bird"}
    return tensors, {"model_type": "vit", "num_attention_heads": 2, "id2label": labels}, params


def clip():
    """CLIP: its tensors, the config.json, our tree."""
    params = random_params(CLIP)
    image, text = params["image"], params["text"]
    names = {
        "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
        "attention_out": "self_attn.out_proj", "norm": "layer_norm1", "mlp_norm": "layer_norm2", "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    }  # fmt: skip
    tensors = {
        "logit_scale": params["logit_scale"],
        "vision_model.embeddings.class_embedding": image["class_token"],
        "vision_model.embeddings.position_embedding.weight": image["position_embedding"],
        "vision_model.embeddings.position_ids": np.arange(5)[None],
        "vision_model.embeddings.patch_embedding.weight": patches(image["patch_projection"]["kernel"]),
        "vision_model.pre_layrnorm.weight": image["pre_norm"]["scale"],
        "vision_model.pre_layrnorm.bias": image["pre_norm"]["bias"],
        "vision_model.post_layernorm.weight": image["final_norm"]["scale"],
        "vision_model.post_layernorm.bias": image["final_norm"]["bias"],
        "visual_projection.weight": image["projection"]["kernel"].T,
        "text_model.embeddings.token_embedding.weight": text["token_embedding"],
        "text_model.embeddings.position_embedding.weight": text["position_embedding"],
        "text_model.final_layer_norm.weight": text["final_norm"]["scale"],
        "text_model.final_layer_norm.bias": text["final_norm"]["bias"],
        "text_projection.weight": text["projection"]["kernel"].T,
    }
    for i in range(2):
        tensors |= hugging_face_layer(image["blocks"], i, f"vision_model.encoder.layers.{i}.", names)
    for i in range(3):
        tensors |= hugging_face_layer(text["blocks"], i, f"text_model.encoder.layers.{i}.", names)
    config = {
        "model_type": "clip",
        "vision_config": {"num_attention_heads": 2},
        "text_config": {"num_attention_heads": 3, "eos_token_id": 1},
    }
    return tensors, config, params


def write_clip(folder):
    """A CLIP's folder with all that goes with it; also our tree."""
    tensors, config, params = clip()
    return write(
        folder,
        tensors,
        config=config,
        preprocessor_config={
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 8},
            "crop_size": 8,
            **IMAGENET,
        },
        tokenizer=train_tokenizer(WORDS, vocabulary=262, length=5).to_json(),
        tokenizer_config={"pad_token": "<|endoftext|>"},
    ), params


def timm():
    """A vision transformer of timm with registers: its tensors, the config.json, our tree."""
    params = random_params(TIMM)
    image = params["image"]
    tensors = {
        "cls_token": image["class_token"][None, None],
        "reg_token": image["registers"][None],
        "pos_embed": image["position_embedding"][None],
        "patch_embed.proj.weight": patches(image["patch_projection"]["kernel"]),
        "patch_embed.proj.bias": image["patch_projection"]["bias"],
        "norm.weight": image["final_norm"]["scale"],
        "norm.bias": image["final_norm"]["bias"],
        "head.weight": params["head"]["kernel"].T,
        "head.bias": params["head"]["bias"],
    }
    names = {
        "attention_out": "attn.proj",
        "norm": "norm1",
        "mlp_norm": "norm2",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    }
    blocks = image["blocks"]
    for i in range(2):
        root = f"blocks.{i}."
        tensors |= hugging_face_layer(blocks, i, root, names)
        qkv = [blocks[name] for name in ("query", "key", "value")]
        tensors[f"{root}attn.qkv.weight"] = np.concatenate([linear(part["kernel"][i], 16) for part in qkv])
        tensors[f"{root}attn.qkv.bias"] = np.concatenate([part["bias"][i].reshape(-1) for part in qkv])
        tensors[f"{root}ls1.gamma"] = blocks["attention_scale"]["scale"][i]
        tensors[f"{root}ls2.gamma"] = blocks["mlp_scale"]["scale"][i]
    pixels = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "interpolation": "bicubic"}
    arguments = {"num_heads": 2}
    config = {"architecture": "vit_small_patch14_reg4_dinov2", "model_args": arguments, "pretrained_cfg": pixels}
    return tensors, config, params


def siglip():
    """SigLIP of transformers: its tensors, the config.json, our tree."""
    params = random_params(SIGLIP)
    image, text, pool = params["image"], params["text"], params["image"]["pool"]
    names = {
        "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
        "attention_out": "self_attn.out_proj", "norm": "layer_norm1", "mlp_norm": "layer_norm2", "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    }  # fmt: skip
    qkv = [pool[name] for name in ("query", "key", "value")]
    tensors = {
        "logit_scale": params["logit_scale"].reshape(1),
        "logit_bias": params["logit_bias"].reshape(1),
        "vision_model.embeddings.position_embedding.weight": image["position_embedding"],
        "vision_model.embeddings.patch_embedding.weight": patches(image["patch_projection"]["kernel"]),
        "vision_model.embeddings.patch_embedding.bias": image["patch_projection"]["bias"],
        "vision_model.post_layernorm.weight": image["final_norm"]["scale"],
        "vision_model.post_layernorm.bias": image["final_norm"]["bias"],
        "vision_model.head.probe": pool["probe"].reshape(1, 1, 16),
        "vision_model.head.attention.in_proj_weight": np.concatenate([linear(part["kernel"], 16) for part in qkv]),
        "vision_model.head.attention.in_proj_bias": np.concatenate([part["bias"].reshape(-1) for part in qkv]),
        "text_model.embeddings.token_embedding.weight": text["token_embedding"],
        "text_model.embeddings.position_embedding.weight": text["position_embedding"],
        "text_model.final_layer_norm.weight": text["final_norm"]["scale"],
        "text_model.final_layer_norm.bias": text["final_norm"]["bias"],
        "text_model.head.weight": text["projection"]["kernel"].T,
        "text_model.head.bias": text["projection"]["bias"],
    }
    for ours, theirs in {"attention_out": "attention.out_proj", "mlp_in": "mlp.fc1", "mlp_out": "mlp.fc2"}.items():
        kernel = pool[ours]["kernel"]
        tensors[f"vision_model.head.{theirs}.weight"] = kernel.reshape(-1, kernel.shape[-1]).T
        tensors[f"vision_model.head.{theirs}.bias"] = pool[ours]["bias"]
    tensors["vision_model.head.layernorm.weight"] = pool["norm"]["scale"]
    tensors["vision_model.head.layernorm.bias"] = pool["norm"]["bias"]
    for i in range(2):
        tensors |= hugging_face_layer(image["blocks"], i, f"vision_model.encoder.layers.{i}.", names)
    for i in range(3):
        tensors |= hugging_face_layer(text["blocks"], i, f"text_model.encoder.layers.{i}.", names)
    heads = {"vision_config": {"num_attention_heads": 2}, "text_config": {"num_attention_heads": 3}}
    return tensors, {"model_type": "siglip", **heads}, params


def flax_modules(modules, root, names, layer=...):
    """Modules of ours, or one layer of them, under Flax's names."""
    arrays = {}
    for ours, theirs in names.items():
        arrays |= {f"{root}{theirs}/{leaf}": values[layer] for leaf, values in modules[ours].items()}
    return arrays


def big_vision_tower(blocks, root):
    """The layers of a tower, numbered."""
    arrays = {}
    for i in range(len(blocks["norm"]["scale"])):
        arrays |= flax_modules(blocks, f"{root}encoderblock_{i}/", {**FLAX, "mlp_norm": "LayerNorm_1"}, i)
    return arrays


def big_vision_image(image, root=""):
    """An image tower of big_vision with a MAP head."""
    return {
        f"{root}pos_embedding": image["position_embedding"][None],
        f"{root}embedding/kernel": image["patch_projection"]["kernel"].reshape(4, 4, 3, 16),
        f"{root}embedding/bias": image["patch_projection"]["bias"],
        f"{root}Transformer/encoder_norm/scale": image["final_norm"]["scale"],
        f"{root}Transformer/encoder_norm/bias": image["final_norm"]["bias"],
        f"{root}MAPHead_0/probe": image["pool"]["probe"][None, None],
        **big_vision_tower(image["blocks"], f"{root}Transformer/"),
        **flax_modules(image["pool"], f"{root}MAPHead_0/", FLAX),
    }


def big_vision():
    """A ViT of big_vision with a MAP head: its arrays, our tree."""
    params = random_params(BIG_VISION)
    arrays = big_vision_image(params["image"]) | {
        "head/kernel": params["head"]["kernel"],
        "head/bias": params["head"]["bias"],
    }
    return {f"params/{name}": values for name, values in arrays.items()}, params


def big_vision_siglip():
    """A SigLIP of big_vision: its arrays, our tree."""
    params = random_params(SIGLIP)
    text = params["text"]
    arrays = big_vision_image(params["image"], "img/") | {
        "txt/Embed_0/embedding": text["token_embedding"],
        "txt/pos_embedding": text["position_embedding"][None],
        "txt/Encoder_0/encoder_norm/scale": text["final_norm"]["scale"],
        "txt/Encoder_0/encoder_norm/bias": text["final_norm"]["bias"],
        "txt/head/kernel": text["projection"]["kernel"],
        "txt/head/bias": text["projection"]["bias"],
        **big_vision_tower(text["blocks"], "txt/Encoder_0/"),
        "t": params["logit_scale"].reshape(1),
        "b": params["logit_bias"].reshape(1),
    }
    return {f"params/{name}": values for name, values in arrays.items()}, params
