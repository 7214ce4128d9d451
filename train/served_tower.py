"""A served model as a tower that is judged: asked over gRPC, as any client would.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client, behind all of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from train.tower import Floats, Image, TowerFeatures
from vit22b import signature
from vit22b.client import Client

TIMEOUT = 60.0  # seconds; an evaluation would rather wait for a busy server than end


class ServedTower:
    """A model behind an address; see train.tower.Tower for what it answers.

    The first answer pins the version, and the model of one evaluation is one model: where the server has another one
    under that number or drops it, the evaluation ends.
    """

    checkpoint: Path | None = None
    fingerprint: str | None = None
    head: str | None = None

    def __init__(self, address: str, model: str, version: int | None = None) -> None:
        """Asks the model what it is.

        Raises:
            VitError: no answer, or a model that vit22b did not export.
        """
        self.source = f"grpc://{address}/{model}" + ("" if version is None else f"/{version}")
        with Client(address, model, version=version, timeout=TIMEOUT) as asked:
            found = asked.describe()
        self.version, self.manifest = found.version, found.manifest
        self.config, self.preprocess = self.manifest.config, self.manifest.preprocess
        self.labels, self.layers = self.manifest.labels, self.manifest.feature_layers
        self.space_id, self.step = self.manifest.space_id, self.manifest.step
        # Of the version that was described: another one is not taken over in the middle, even of the same space, since
        # its head may be another.
        self._client = Client(address, model, version=found.version, timeout=TIMEOUT)

    def features(self, images: Sequence[Image], *, tokens: bool = False, layers: Sequence[int] = ()) -> TowerFeatures:
        """See Tower."""
        found = self._client.features(images, tokens=tokens, layers=layers)
        self._check(found.space_id)
        return TowerFeatures(found.pooled, found.tokens, dict(found.layers))

    def embeddings(self, images: Sequence[Image]) -> Floats:
        """See Tower."""
        found = self._client.embed_images(images)
        self._check(found.space_id)
        return np.asarray(found.vectors, np.float32)

    def logits(self, images: Sequence[Image]) -> Floats:
        """See Tower."""
        encoded = [image if isinstance(image, bytes) else image.read_bytes() for image in images]
        return self._predict(signature.LOGITS, {signature.IMAGE_BYTES: encoded})

    def pixel_logits(self, pixels: np.ndarray) -> Floats:
        """float32 [n, Y] of decoded images, uint8 [n, R, R, 3]."""
        return self._predict(signature.LOGITS_PIXELS, {signature.PIXELS: pixels})

    def texts(self, texts: Sequence[str]) -> Floats:
        """See Tower."""
        if self.config.text is None:
            raise ValueError(f"{self.source} has no text tower; export a model that train/lit.py trained")
        found = self._client.embed_texts(texts)
        self._check(found.space_id)
        return np.asarray(found.vectors, np.float32)

    def close(self) -> None:
        """See Tower."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _predict(self, name: str, inputs: dict) -> Floats:
        if not self.config.classes:
            raise ValueError(
                f"{self.source} has no head; export a checkpoint of train/pretrain.py or train/finetune.py"
            )
        found = self._client.predict(name, inputs)[signature.LOGITS_OUTPUT]
        self._check(self._client.describe().manifest.space_id)
        return np.asarray(found, np.float32)

    def _check(self, space_id: str) -> None:
        if space_id != self.space_id:
            raise ValueError(
                f"{self.source} was replaced by another model while it was judged (space {self.space_id}, now "
                f"{space_id}); evaluate again, with the version in the address: grpc://HOST:PORT/MODEL/VERSION"
            )
