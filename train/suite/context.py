"""What every protocol is given: the tower, with its answers kept, and how much work to put in.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from train.kept import Kept
from train.tower import Floats, Image, Tower, TowerFeatures


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much work the protocols put in; the defaults are `make eval`'s on two cores.

    Attributes:
        seeds: repetitions of what depends on a seed.
        probe_epochs: of the linear probe by SGD.
        decoder_steps: of the heads and decoders for dense targets and video.
        fine_tune_steps, distil_steps: of the protocols that train a whole tower; 0 leaves them out.
        layers: blocks whose tokens the DPT head takes; by default four that lie evenly, of those the tower answers.
    """

    seeds: int = 3
    probe_epochs: int = 10
    decoder_steps: int = 250
    fine_tune_steps: int = 120
    distil_steps: int = 120
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("seeds", "probe_epochs", "decoder_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("fine_tune_steps", "distil_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected 0, for none, or more")


class Context:
    """A tower whose every answer is computed once, and what else the protocols share.

    Attributes:
        tower: that is judged.
        effort: see Effort.
        scratch: a folder of the evaluation's own, for protocols that train; who made the context removes it.
    """

    def __init__(self, tower: Tower, effort: Effort, scratch: Path, kept: Kept | None = None) -> None:
        """Takes a place to keep answers from run to run; used where the tower has a fingerprint.

        Every question raises ValueError where an answer is not finite, and what the tower raises.
        """
        self.tower, self.effort, self.scratch = tower, effort, scratch
        self._kept = kept if tower.fingerprint else None
        self._memory: dict[str, Floats] = {}

    def pooled(self, images: Sequence[Image]) -> Floats:
        """float32 [n, D]."""
        return self._answer("pooled", images, lambda: self.tower.features(images).pooled)

    def tokens(self, images: Sequence[Image]) -> Floats:
        """float32 [n, N, D]."""

        def ask() -> Floats:
            found = self.tower.features(images, tokens=True).tokens
            assert found is not None  # asked for
            return found

        return self._answer("tokens", images, ask)

    def layers(self, images: Sequence[Image], layers: Sequence[int]) -> dict[int, Floats]:
        """float32 [n, N, D] by block."""
        found: dict[int, TowerFeatures] = {}

        def ask(layer: int) -> Floats:
            if not found:  # one pass for all of them
                found[0] = self.tower.features(images, layers=layers)
            return found[0].layers[layer]

        return {layer: self._answer(f"layer {layer}", images, lambda layer=layer: ask(layer)) for layer in layers}

    def embeddings(self, images: Sequence[Image]) -> Floats:
        """float32 [n, E], of unit length."""
        return self._answer("embeddings", images, lambda: self.tower.embeddings(images))

    def logits(self, images: Sequence[Image]) -> Floats:
        """float32 [n, Y] of the model's own head."""
        return self._answer("logits", images, lambda: self.tower.logits(images))

    def _answer(self, what: str, images: Sequence[Image], ask: Callable[[], Floats]) -> Floats:
        key = f"{what} {_digest(images)}"
        if key not in self._memory:
            kept = self._kept
            found = ask() if kept is None else kept.array(f"{self.tower.fingerprint} {key}", ask)
            # Here for all protocols: an argmax takes a NaN for the best class, and tells nobody.
            if len(found) != len(images) or not np.isfinite(found).all():
                raise ValueError(
                    f"{self.tower.source} answers {len(images)} images with {what} of the shape {found.shape}, "
                    f"{(~np.isfinite(found)).sum()} numbers of which are not finite; expected {len(images)} rows of "
                    "finite numbers: the model has diverged, take an earlier checkpoint"
                )
            self._memory[key] = found
        return self._memory[key]


def _digest(images: Sequence[Image]) -> str:
    """Of what the images are, byte for byte."""
    digest = hashlib.sha256()
    for image in images:
        data = image if isinstance(image, bytes) else image.read_bytes()
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


def one_hot(targets: np.ndarray, classes: int) -> Floats:
    """Classes int [n] as float32 [n, k] of zeros and ones."""
    return np.eye(classes, dtype=np.float32)[targets]
