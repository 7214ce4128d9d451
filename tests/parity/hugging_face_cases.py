"""Parity cases of transformers: ViT, DINOv2, CLIP, SigLIP and SigLIP 2."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.parity.reference import (
    ROWS,
    SIDE,
    Case,
    Reference,
    as_input,
    at_resolution,
    random_pixels,
    randomised,
    unit,
)
from vit22b.tokenizer import train_tokenizer

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_IMAGE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": SIDE, "patch_size": 8}
_TEXT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
_WORDS = ("a photo of a cat", "two dogs", "a much longer text about nothing that has to be cut somewhere")


def _vit(folder: Path, classes: int, side: int = SIDE) -> Reference:
    config = transformers.ViTConfig(**_IMAGE, intermediate_size=72, num_labels=classes or 2)
    model = transformers.ViTForImageClassification if classes else transformers.ViTModel
    model = randomised(model(config))
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    pixels = random_pixels(side)
    with torch.no_grad():
        answer = (model.vit if classes else model)(as_input(pixels), interpolate_pos_encoding=side != SIDE)
        tokens = answer.last_hidden_state
        outputs = {"embedding": unit(tokens[:, 0]), "tokens": tokens[:, 1:].numpy()}
        if classes:
            outputs["logits"] = model(as_input(pixels)).logits.numpy()
    return Reference(folder, outputs, pixels, settings=at_resolution(side))


def _dino(folder: Path, registers: int, side: int) -> Reference:
    options = {**_IMAGE, "mlp_ratio": 3, "layerscale_value": 1.0}
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**options, num_register_tokens=registers)
        model = randomised(transformers.Dinov2WithRegistersModel(config))
    else:
        model = randomised(transformers.Dinov2Model(transformers.Dinov2Config(**options)))
    model.save_pretrained(folder)
    crop = {"height": side, "width": side}
    transformers.BitImageProcessor(
        size={"shortest_edge": side + 8}, crop_size=crop, image_mean=_IMAGENET[0], image_std=_IMAGENET[1]
    ).save_pretrained(folder)
    pixels = random_pixels(side)
    with torch.no_grad():
        tokens = model(as_input(pixels, *_IMAGENET)).last_hidden_state
    return Reference(folder, {"embedding": unit(tokens[:, 0]), "tokens": tokens[:, 1 + registers :].numpy()}, pixels)


def _tokenizer(folder: Path, length: int) -> tuple[Any, int]:
    """A tokenizer as transformers saves it, and the ids of _WORDS as it makes them."""
    own = train_tokenizer(_WORDS, vocabulary=300, length=length)
    backend = own._backend
    backend.no_padding()
    backend.no_truncation()
    end = "<|endoftext|>"
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token=end)
    tokenizer.save_pretrained(folder)
    ids = tokenizer(list(_WORDS), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return ids["input_ids"], tokenizer.eos_token_id


def _clip(folder: Path, old_end: bool, side: int = SIDE) -> Reference:
    token_ids, end = _tokenizer(folder, 12)
    # The slip in CLIP's first config.json, end 2, means the largest id; as there, that is the end of a text.
    vocabulary = 300
    if old_end:
        token_ids = torch.where(token_ids == end, vocabulary - 1, token_ids)
    text = {**_TEXT, "vocab_size": vocabulary, "max_position_embeddings": 12}
    config = transformers.CLIPConfig(
        vision_config={**_IMAGE, "intermediate_size": 72},
        text_config={**text, "eos_token_id": 2 if old_end else end},
        projection_dim=16,
    )
    model = randomised(transformers.CLIPModel(config))
    model.save_pretrained(folder)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor.save_pretrained(folder)
    pixels = random_pixels(side)
    with torch.no_grad():
        images = as_input(pixels, processor.image_mean, processor.image_std)
        answer = model(pixel_values=images, input_ids=token_ids, interpolate_pos_encoding=side != SIDE)
        tokens = model.vision_model.post_layernorm(answer.vision_model_output.last_hidden_state)[:, 1:]
    ids, words = token_ids.numpy().astype(np.int32), () if old_end else _WORDS
    return Reference(folder, _pair(answer, tokens), pixels, ids, words, at_resolution(side))


def _siglip(folder: Path, free_aspect: bool, side: int = SIDE) -> Reference:
    token_ids, _ = _tokenizer(folder, 12)
    image = {**_IMAGE, "intermediate_size": 72}
    text = {**_TEXT, "vocab_size": 300, "max_position_embeddings": 12, "projection_size": 32}
    pixels = random_pixels(side)
    images = as_input(pixels)
    grid = side // 8
    if free_aspect:
        del image["image_size"]
        own = (SIDE // 8) ** 2
        config = transformers.Siglip2Config(vision_config={**image, "num_patches": own}, text_config=text)
        model, processor = (
            transformers.Siglip2Model(config),
            transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=own),
        )
        patches = images.reshape(ROWS, 3, grid, 8, grid, 8).permute(0, 2, 4, 3, 5, 1).reshape(ROWS, grid**2, -1)
        inputs = {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(ROWS, grid**2, dtype=torch.int32),
            "spatial_shapes": torch.full((ROWS, 2), grid),
        }
    else:
        config = transformers.SiglipConfig(vision_config=image, text_config=text)
        model = transformers.SiglipModel(config)
        processor = transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
        inputs = {"pixel_values": images, "interpolate_pos_encoding": side != SIDE}
    model = randomised(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    with torch.no_grad():
        answer = model(input_ids=token_ids, **inputs)
    tokens = answer.vision_model_output.last_hidden_state
    ids = token_ids.numpy().astype(np.int32)
    return Reference(folder, _pair(answer, tokens), pixels, ids, _WORDS, at_resolution(side))


def _pair(answer: Any, tokens: torch.Tensor) -> dict[str, np.ndarray]:
    return {
        "embedding": answer.image_embeds.numpy(),
        "tokens": tokens.numpy(),
        "text_embedding": answer.text_embeds.numpy(),
        "similarity": answer.logits_per_image.numpy(),
    }


CASES = (
    Case("vit", "ViTModel", functools.partial(_vit, classes=0)),
    Case("vit", "ViTForImageClassification", functools.partial(_vit, classes=7)),
    Case("vit", "ViTModel, positions resampled", functools.partial(_vit, classes=0, side=24)),
    Case("dinov2", "Dinov2Model", functools.partial(_dino, registers=0, side=SIDE)),
    Case("dinov2", "Dinov2Model, positions resampled", functools.partial(_dino, registers=0, side=24)),
    Case("dinov2", "Dinov2WithRegistersModel", functools.partial(_dino, registers=4, side=SIDE)),
    Case("dinov2", "Dinov2WithRegistersModel, positions resampled", functools.partial(_dino, registers=4, side=24)),
    Case("clip", "CLIPModel", functools.partial(_clip, old_end=False)),
    Case("clip", "CLIPModel, eos_token_id 2", functools.partial(_clip, old_end=True)),
    Case("clip", "CLIPModel, positions resampled", functools.partial(_clip, old_end=False, side=48)),
    Case("siglip", "SiglipModel", functools.partial(_siglip, free_aspect=False)),
    Case("siglip", "SiglipModel, positions resampled", functools.partial(_siglip, free_aspect=False, side=24)),
    Case("siglip", "Siglip2Model, square", functools.partial(_siglip, free_aspect=True)),
    Case("siglip", "Siglip2Model, positions resampled", functools.partial(_siglip, free_aspect=True, side=24)),
)
