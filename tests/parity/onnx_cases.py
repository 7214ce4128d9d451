"""Parity cases of ONNX files, which torch exports of timm's and transformers' models, against onnxruntime."""

import functools
from pathlib import Path

import onnxruntime
import timm
import torch
import transformers

from export.families.plan import Choices
from tests.parity.reference import SIDE, Case, Reference, as_input, quietly, random_pixels, randomised, unit

WIDTH, HEADS, DEPTH = 32, 4, 2


def _onnx(folder: Path, dino: bool, dynamo: bool) -> Reference:
    """A model that was exported to ONNX, with onnxruntime as the other implementation."""
    folder.mkdir()
    if dino:
        config = transformers.Dinov2Config(
            hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, image_size=SIDE, patch_size=8,
            layerscale_value=1.0,
        )  # fmt: skip
        model = _Tokens(randomised(transformers.Dinov2Model(config)))
    else:
        sizes = {"img_size": SIDE, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
        model = randomised(timm.models.vision_transformer.VisionTransformer(**sizes, num_classes=5))
    images = as_input(random_pixels())
    file = folder / "model.onnx"
    # With a fixed batch the class token would be a constant of that many rows.
    batch = {"dynamic_shapes": ({0: "batch"},)} if dynamo else {"dynamic_axes": {"images": {0: "batch"}}}
    torch.onnx.export(model.eval(), (images,), str(file), input_names=["images"], dynamo=dynamo, verbose=False, **batch)
    answer = onnxruntime.InferenceSession(str(file)).run(None, {"images": images.numpy()})[0]
    settings = {"pixels": "symmetric", "choices": Choices(heads=HEADS)}
    outputs = (
        {"embedding": unit(torch.from_numpy(answer[:, 0])), "tokens": answer[:, 1:]} if dino else {"logits": answer}
    )
    return Reference(file, outputs, random_pixels(), settings=settings)


class _Tokens(torch.nn.Module):
    """The tokens of a model, whose parameters keep a prefix."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(images).last_hidden_state


def _case(model: str, dino: bool, dynamo: bool) -> Case:
    return Case("onnx", model, functools.partial(quietly, _onnx, dino=dino, dynamo=dynamo))


CASES = (
    _case("timm vit", dino=False, dynamo=True),
    _case("timm vit, traced", dino=False, dynamo=False),
    _case("Dinov2Model", dino=True, dynamo=True),
    _case("Dinov2Model, traced", dino=True, dynamo=False),
)
