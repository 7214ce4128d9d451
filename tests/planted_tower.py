"""A tower whose answers are planted in the pixels: an image's feature is its mean colour, a text's the colour it names.

It stands for a checkpoint or a served model in the tests of train/suite, which give it real, tiny PNG files. `paint`
and `write_part` make these.
"""

import dataclasses
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image as Pillow

from train.suite.context import Context, Effort
from train.tower import Floats, Image, TowerFeatures
from vit22b.config import ModelConfig, TextConfig, ViTConfig
from vit22b.preprocess import Preprocess

SIDE, PATCH = 16, 4  # pixels of an image that `paint` makes, and of a patch: 4 x 4 tokens
WIDTH = 8
COLOURS = {
    "red": (224, 32, 32),
    "green": (32, 224, 32),
    "blue": (32, 32, 224),
    "yellow": (224, 224, 32),
    "magenta": (224, 32, 224),
    "cyan": (32, 224, 224),
}


class PlantedTower:
    """A Tower (see train.tower) of width 8: colours, mapped to 8 dimensions by a fixed rotation.

    Colours lie around 0, from -1 to 1, so that the COLOURS are linearly separable and their cosines tell them apart.
    A text has the mean of the colours that it names; one that names none has a fixed vector of its own.
    """

    def __init__(
        self,
        labels: Sequence[str] = (),
        *,
        texts: bool = True,
        wobble: float = 0.0,
        blind: bool = False,
        fingerprint: str | None = None,
        layers: Sequence[int] = (0, 1, 2, 3),
        checkpoint: Path | None = None,
    ) -> None:
        """Makes a tower.

        Args:
            labels: names of colours that the head knows; no head where empty.
            texts: whether there is a text tower.
            wobble: noise of this size is added to every answer, as a served model's differ from the checkpoint's.
            blind: whether every image gets noise instead, which depends on its bytes alone.
            fingerprint, layers, checkpoint: see Tower.
        """
        self.source, self.checkpoint = "planted:tower", checkpoint
        self.fingerprint, self.head, self.space_id, self.step = fingerprint, None, "0" * 16, 7
        image = ViTConfig(width=WIDTH, depth=4, mlp_dim=16, heads=2, patch=PATCH, resolution=SIDE)
        text = TextConfig(width=WIDTH, depth=1, mlp_dim=16, heads=2, vocabulary=64, projection=WIDTH)
        self.config = ModelConfig(image, classes=len(labels), text=text if texts else None)
        self.preprocess = Preprocess(resolution=SIDE)
        self.labels, self.layers = tuple(labels), tuple(layers)
        self.asked = 0  # images that the tower was asked about
        self._texts, self._wobble, self._blind = texts, wobble, blind
        self._rotation = np.linalg.qr(np.random.default_rng(7).normal(size=(WIDTH, WIDTH)))[0][:3]

    def features(self, images: Sequence[Image], *, tokens: bool = False, layers: Sequence[int] = ()) -> TowerFeatures:
        self.asked += len(images)
        if missing := sorted(set(layers) - set(self.layers)):
            raise ValueError(f"the tower does not answer the layers {missing}; expected some of {self.layers}")
        grids = np.stack([self._grid(image) for image in images])
        vectors = self._rotated(grids)
        return TowerFeatures(
            self._rotated(grids.mean(axis=1)),
            vectors if tokens else None,
            {layer: (vectors * (layer + 1)).astype(np.float32) for layer in layers},
        )

    def embeddings(self, images: Sequence[Image]) -> Floats:
        return _unit(self.features(images).pooled)

    def logits(self, images: Sequence[Image]) -> Floats:
        if not self.labels:
            raise ValueError("the model has no head")
        bank = _unit(self._rotated(np.stack([_named(name) for name in self.labels])))
        return (10 * self.embeddings(images) @ bank.T).astype(np.float32)

    def texts(self, texts: Sequence[str]) -> Floats:
        if not self._texts:
            raise ValueError("the model has no text tower")
        return _unit(self._rotated(np.stack([_named(text) for text in texts])))

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _grid(self, image: Image) -> np.ndarray:
        """Mean colours of the patches, from -1 to 1: float64 [N, 3]."""
        data = image if isinstance(image, bytes) else image.read_bytes()
        side = SIDE // PATCH
        if self._blind:
            return np.random.default_rng(zlib.crc32(data)).normal(size=(side * side, 3))
        with Pillow.open(io.BytesIO(data)) as opened:
            picture = opened.convert("RGB")
        if picture.size != (SIDE, SIDE):
            picture = picture.resize((SIDE, SIDE), Pillow.Resampling.BICUBIC)
        pixels = np.asarray(picture, np.float64) / 127.5 - 1
        return pixels.reshape(side, PATCH, side, PATCH, 3).mean(axis=(1, 3)).reshape(side * side, 3)

    def _rotated(self, colours: np.ndarray) -> Floats:
        vectors = colours @ self._rotation
        noise = np.random.default_rng(int(self._wobble > 0)).normal(size=vectors.shape)
        return (vectors + self._wobble * noise).astype(np.float32)


def paint(path: Path, colour: Sequence[int] | np.ndarray, seed: int = 0, noise: float = 12.0) -> Path:
    """Writes a PNG of one colour, or of an array uint8 [h, w, 3], with noise that the seed decides."""
    given = np.asarray(colour, np.float64)
    pixels = given if given.ndim == 3 else np.broadcast_to(given, (SIDE, SIDE, 3))
    noisy = pixels + noise * np.random.default_rng(seed).normal(size=pixels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)).save(path)
    return path


def write_part(folder: Path, items: Sequence[tuple[Any, Mapping[str, Any]]], noise: float = 12.0) -> None:
    """Writes a part of a set: for each item an image, of what `paint` takes or the name of a colour, and its fields.

    The files are 0000.png and so on, so that the part has the order of the items; `labels` is a list where given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, (colour, fields) in enumerate(items):
        name = f"{index:04d}.png"
        paint(folder / name, COLOURS[colour] if isinstance(colour, str) else colour, index, noise)
        lines.append(json.dumps({"file_name": name, **fields}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


def context(tower: PlantedTower, scratch: Path, **effort: Any) -> Context:
    """A context of a planted tower, with the least effort that is allowed but for what is given."""
    return Context(tower, dataclasses.replace(Effort(seeds=2, probe_epochs=4, decoder_steps=60), **effort), scratch)


def _named(text: str) -> np.ndarray:
    colours = [COLOURS[word] for word in text.lower().replace(".", " ").split() if word in COLOURS]
    if not colours:
        return np.random.default_rng(zlib.crc32(text.encode())).normal(size=3)
    return np.mean(colours, axis=0) / 127.5 - 1


def _unit(vectors: np.ndarray) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
