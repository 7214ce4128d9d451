"""What a parity case has: a model of another implementation, saved as its users save it, and what it answers.

Runs in an environment of its own, with torch, transformers, timm, onnx and onnxruntime (`make parity`). Models are
small and random: every parameter is moved, so that none of them can be lost without a difference.
"""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.families.plan import Choices

SIDE, ROWS = 32, 3


@dataclasses.dataclass(frozen=True)
class Reference:
    """A saved model and its answers.

    Attributes:
        source: what export/import_weights.py is given.
        outputs: float arrays by the names that ours has: embedding, tokens, logits, text_embedding, similarity.
        pixels: uint8 [b, r, r, 3] that they are for.
        token_ids: of the texts, where there is a text tower.
        texts: what the imported tokenizer has to make these token ids of.
        settings: fields of export.import_weights.Settings besides source and output.
    """

    source: Path
    outputs: dict[str, np.ndarray]
    pixels: np.ndarray
    token_ids: np.ndarray | None = None
    texts: tuple[str, ...] = ()
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Case:
    """One model of one family; `make` builds it in a folder."""

    family: str
    model: str
    make: Callable[[Path], Reference]


SMALL = 0.02  # of what the first norm takes, so that its epsilon shows: 1e-5 in place of 1e-6 is far beyond 1e-4
_FIRST = ("embed", "cls_token", "reg_token", "register_token")


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Moves every parameter away from its start, where biases are 0 and scales are 1; makes embeddings small."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            size = 0.2 if parameter.ndim > 1 else 0.1
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
            if any(part in name for part in _FIRST):
                parameter.mul_(SMALL)
    return model.eval()


def random_pixels(side: int = SIDE, rows: int = ROWS) -> np.ndarray:
    """Images uint8 [rows, side, side, 3]."""
    return np.random.default_rng(5).integers(256, size=(rows, side, side, 3)).astype(np.uint8)


def at_resolution(side: int) -> dict[str, Any]:
    """The import's settings for a tower whose positions are to be resampled."""
    return {"choices": Choices(resolution=side)}


def as_input(pixels: np.ndarray, mean: Any = 0.5, std: Any = 0.5) -> torch.Tensor:
    """Pixels as torch takes them: [b, 3, r, r], less the mean and over the deviation of their channels."""
    values = (pixels.astype(np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(values.transpose(0, 3, 1, 2).copy())


def unit(vectors: torch.Tensor) -> np.ndarray:
    """Rows of length 1."""
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


def quietly(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Calls a library that warns of itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)
