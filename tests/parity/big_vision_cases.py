"""Parity cases of big_vision's .npz files: image towers against timm's reader, a text tower against transformers."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers

from tests.parity.reference import SIDE, SMALL, Case, Reference, quietly, random_pixels, unit
from tests.parity.timm_cases import answers
from vit22b.tokenizer import train_tokenizer

WIDTH, HEADS, DEPTH, MLP = 32, 4, 2, 128
Arrays = dict[str, np.ndarray]


def _tower(random: Callable[..., np.ndarray], root: str, blocks: str, norm: str) -> Arrays:
    """A tower of big_vision's, its parameters as Flax has them."""
    arrays = {f"{norm}encoder_norm/scale": 1 + random(WIDTH), f"{norm}encoder_norm/bias": random(WIDTH)}
    for layer in range(DEPTH):
        block = f"{root}{blocks.format(layer)}"
        arrays |= _attention(random, f"{block}MultiHeadDotProductAttention_0/") | _mlp(random, f"{block}MlpBlock_0/")
        for name in ("LayerNorm_0", "LayerNorm_1"):
            arrays |= {f"{block}{name}/scale": 1 + random(WIDTH), f"{block}{name}/bias": random(WIDTH)}
    return arrays


def _attention(random: Callable[..., np.ndarray], root: str) -> Arrays:
    size = WIDTH // HEADS
    arrays = {f"{root}out/kernel": random(HEADS, size, WIDTH), f"{root}out/bias": random(WIDTH)}
    for name in ("query", "key", "value"):
        arrays |= {f"{root}{name}/kernel": random(WIDTH, HEADS, size), f"{root}{name}/bias": random(HEADS, size)}
    return arrays


def _mlp(random: Callable[..., np.ndarray], root: str) -> Arrays:
    return {
        f"{root}Dense_0/kernel": random(WIDTH, MLP),
        f"{root}Dense_0/bias": random(MLP),
        f"{root}Dense_1/kernel": random(MLP, WIDTH),
        f"{root}Dense_1/bias": random(WIDTH),
    }


def _image_tower(random: Callable[..., np.ndarray], root: str, pooling: str) -> Arrays:
    arrays = {
        f"{root}embedding/kernel": SMALL * random(8, 8, 3, WIDTH),
        f"{root}embedding/bias": SMALL * random(WIDTH),
        f"{root}pos_embedding": SMALL * random(1, (SIDE // 8) ** 2, WIDTH),
        **_tower(random, f"{root}Transformer/", "encoderblock_{}/", f"{root}Transformer/"),
    }
    if pooling == "token":
        arrays[f"{root}cls"] = SMALL * random(1, 1, WIDTH)
    if pooling == "map":
        arrays[f"{root}MAPHead_0/probe"] = random(1, 1, WIDTH)
        arrays |= _attention(random, f"{root}MAPHead_0/MultiHeadDotProductAttention_0/")
        arrays |= _mlp(random, f"{root}MAPHead_0/MlpBlock_0/")
        arrays |= {
            f"{root}MAPHead_0/LayerNorm_0/scale": 1 + random(WIDTH),
            f"{root}MAPHead_0/LayerNorm_0/bias": random(WIDTH),
        }
    return arrays


def _random() -> Callable[..., np.ndarray]:
    generator = np.random.default_rng(7)
    return lambda *shape: (0.2 * generator.standard_normal(shape)).astype(np.float32)


def _timm_of(pooling: str, **options: Any) -> torch.nn.Module:
    """The model that timm reads a .npz of big_vision into."""
    return timm.models.vision_transformer.VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, act_layer="gelu_tanh",
        global_pool={"mean": "avg"}.get(pooling, pooling), class_token=pooling == "token", fc_norm=False, **options,
    )  # fmt: skip


def _big_vision(folder: Path, pooling: str, old_names: bool, stacked: bool = False) -> Reference:
    """A ViT of big_vision, with timm's reader of such files as the other implementation."""
    random = _random()
    arrays = _image_tower(random, "", pooling) | {"head/kernel": random(WIDTH, 5), "head/bias": random(5)}
    folder.mkdir()
    model = _timm_of(pooling, num_classes=5, no_embed_class=not old_names)
    model.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    if old_names:
        arrays["pos_embedding"] = SMALL * random(1, (SIDE // 8) ** 2 + 1, WIDTH)
        arrays = _older(arrays)
    np.savez(folder / "numbered.npz", **arrays if old_names else {f"params/{k}": v for k, v in arrays.items()})
    model.load_pretrained(str(folder / "numbered.npz"))
    source = folder / "numbered.npz"
    if stacked:
        source = folder / "stacked.npz"
        np.savez(source, **{f"params/{name}": array for name, array in _stacked(arrays).items()})
    return Reference(source, answers(model.eval()), random_pixels())


def _older(arrays: Arrays) -> Arrays:
    """The names of the files of "How to train your ViT"."""
    renames = (
        ("pos_embedding", "Transformer/posembed_input/pos_embedding"),
        ("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"),
        ("MlpBlock_0", "MlpBlock_3"),
        ("LayerNorm_1", "LayerNorm_2"),
    )
    renamed = {}
    for name, array in arrays.items():
        for old, new in renames:
            name = name.replace(old, new)  # noqa: PLW2901
        renamed[name] = array
    return renamed


def _stacked(arrays: Arrays) -> Arrays:
    """The layers of a tower as one array each, as a scanned model has them."""
    first = [name for name in arrays if "encoderblock_0/" in name]
    rest = {name: array for name, array in arrays.items() if "encoderblock_" not in name}
    for name in first:
        layers = [arrays[name.replace("encoderblock_0/", f"encoderblock_{layer}/")] for layer in range(DEPTH)]
        rest[name.replace("encoderblock_0/", "encoderblock/")] = np.stack(layers)
    return rest


def _big_vision_siglip(folder: Path) -> Reference:
    """A SigLIP of big_vision: the image tower against timm's reader, the text tower against transformers' SigLIP."""
    random = _random()
    text = _tower(random, "txt/Encoder_0/", "encoderblock_{}/", "txt/Encoder_0/") | {
        "txt/Embed_0/embedding": SMALL * random(300, WIDTH),
        "txt/pos_embedding": SMALL * random(1, 12, WIDTH),
        "txt/head/kernel": random(WIDTH, WIDTH),
        "txt/head/bias": random(WIDTH),
    }
    folder.mkdir()
    arrays = _image_tower(random, "img/", "map") | text | {"t": np.float32([2.0]), "b": np.float32([-3.0])}
    np.savez(folder / "siglip.npz", **{f"params/{name}": array for name, array in arrays.items()})
    image = _timm_of("map", num_classes=0)
    image.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    image.load_pretrained(str(folder / "siglip.npz"))
    outputs = answers(image.eval())
    tokenizer, token_ids, words = _tokenizer(folder)
    with torch.no_grad():
        texts = unit(_text_tower(text)(input_ids=torch.from_numpy(token_ids)).pooler_output)
    outputs["text_embedding"] = texts
    outputs["similarity"] = np.exp(2.0) * outputs["embedding"] @ texts.T - 3.0
    return Reference(
        folder / "siglip.npz", outputs, random_pixels(), token_ids, words, settings={"tokenizer": tokenizer}
    )


def _tokenizer(folder: Path) -> tuple[Path, np.ndarray, tuple[str, ...]]:
    words = ("a photo of a cat", "two dogs", "nothing at all")
    tokenizer = train_tokenizer(words, vocabulary=300, length=12)
    (folder / "tokenizer.json").write_text(tokenizer.to_json())
    return folder / "tokenizer.json", tokenizer.encode(words), words


def _text_tower(arrays: Arrays) -> torch.nn.Module:
    """SigLIP's text tower of transformers with the parameters of a big_vision file."""
    config = transformers.SiglipTextConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=MLP, vocab_size=300,
        max_position_embeddings=12, projection_size=WIDTH,
    )  # fmt: skip
    model = transformers.SiglipTextModel(config).eval()
    flax = {name.removeprefix("txt/"): array for name, array in arrays.items()}
    state = {
        "embeddings.token_embedding.weight": flax["Embed_0/embedding"],
        "embeddings.position_embedding.weight": flax["pos_embedding"][0],
        "final_layer_norm.weight": flax["Encoder_0/encoder_norm/scale"],
        "final_layer_norm.bias": flax["Encoder_0/encoder_norm/bias"],
        "head.weight": flax["head/kernel"].T,
        "head.bias": flax["head/bias"],
    }
    for layer in range(DEPTH):
        theirs, ours = f"encoder.layers.{layer}.", f"Encoder_0/encoderblock_{layer}/"
        for number in (1, 2):
            state[f"{theirs}layer_norm{number}.weight"] = flax[f"{ours}LayerNorm_{number - 1}/scale"]
            state[f"{theirs}layer_norm{number}.bias"] = flax[f"{ours}LayerNorm_{number - 1}/bias"]
            state[f"{theirs}mlp.fc{number}.weight"] = flax[f"{ours}MlpBlock_0/Dense_{number - 1}/kernel"].T
            state[f"{theirs}mlp.fc{number}.bias"] = flax[f"{ours}MlpBlock_0/Dense_{number - 1}/bias"]
        for name, flax_name in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            part = f"{ours}MultiHeadDotProductAttention_0/{flax_name}/"
            state[f"{theirs}self_attn.{name}.weight"] = flax[f"{part}kernel"].reshape(WIDTH, WIDTH).T
            state[f"{theirs}self_attn.{name}.bias"] = flax[f"{part}bias"].reshape(WIDTH)
        part = f"{ours}MultiHeadDotProductAttention_0/out/"
        state[f"{theirs}self_attn.out_proj.weight"] = flax[f"{part}kernel"].reshape(WIDTH, WIDTH).T
        state[f"{theirs}self_attn.out_proj.bias"] = flax[f"{part}bias"]
    root = "text_model." if any(name.startswith("text_model.") for name in model.state_dict()) else ""
    model.load_state_dict({root + name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in state.items()})
    return model


def _npz(model: str, pooling: str, **options: Any) -> Case:
    options = {"old_names": False, **options}
    return Case("big_vision", model, functools.partial(quietly, _big_vision, pooling=pooling, **options))


CASES = (
    _npz("ViT, mean", "mean"),
    _npz("ViT, MAP", "map"),
    _npz("ViT, MAP, scanned", "map", stacked=True),
    _npz("ViT, class token (augreg's names)", "token", old_names=True),
    Case("big_vision", "SigLIP", functools.partial(quietly, _big_vision_siglip)),
)
