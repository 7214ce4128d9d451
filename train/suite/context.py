"""What every protocol is given: the tower, with its answers kept, and how much work to put in.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from train.kept import Kept
from train.suite.room import require_room
from train.tower import Floats, Image, Tower

DENSE_PART = 128  # images whose tokens are asked for at once: a multiple of the batches of towers


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
    fine_tune_steps: int = 240
    distil_steps: int = 400
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
        """float32 [n, N, D], not to be written to; where answers are kept it lies on the disk, and not in memory."""

        def ask(some: Sequence[Image]) -> Floats:
            found = self.tower.features(some, tokens=True).tokens
            assert found is not None  # asked for
            return found

        return self._dense("tokens", images, ask)

    def layers(self, images: Sequence[Image], layers: Sequence[int]) -> dict[int, Floats]:
        """float32 [n, N, D] by block, as `tokens`; all of them are asked for in one pass."""

        def ask(some: Sequence[Image]) -> Floats:
            found = self.tower.features(some, layers=layers).layers
            return np.stack([found[layer] for layer in layers], axis=1)

        found = self._dense(f"layers {', '.join(map(str, layers))}", images, ask)
        return {layer: found[:, place] for place, layer in enumerate(layers)}

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
            self._check(what, images, found)
            self._memory[key] = found
        return self._memory[key]

    def _dense(self, what: str, images: Sequence[Image], ask: Callable[[Sequence[Image]], Floats]) -> Floats:
        """Answers that are asked for, checked and kept part by part, since all of them may not fit into memory."""
        key = f"{what} {_digest(images)}"
        if key not in self._memory:
            kept, count = self._kept, len(images)
            if kept is None:
                self._memory[key] = _joined(count, self._parts(what, images, ask))
            else:
                make = functools.partial(self._parts, what, images, ask)
                self._memory[key] = kept.rows(f"{self.tower.fingerprint} {key}", count, make)
        return self._memory[key]

    def _parts(self, what: str, images: Sequence[Image], ask: Callable[[Sequence[Image]], Floats]) -> Iterator[Floats]:
        for at in range(0, len(images), DENSE_PART):
            some = images[at : at + DENSE_PART]
            found = ask(some)
            self._check(what, some, found)
            if not at:  # before the tower works on the rest
                size = found.nbytes // len(found) * len(images)
                title = f"the {what} of {len(images):,} images by {self.tower.source}"
                require_room(title, size, self._kept.folder if self._kept else None)
            yield found

    def _check(self, what: str, images: Sequence[Image], found: Floats) -> None:
        # Here for all protocols: an argmax takes a NaN for the best class, and tells nobody.
        if len(found) != len(images) or not np.isfinite(found).all():
            raise ValueError(
                f"{self.tower.source} answers {len(images)} images with {what} of the shape {found.shape}, "
                f"{(~np.isfinite(found)).sum()} numbers of which are not finite; expected {len(images)} rows of "
                "finite numbers: the model has diverged, take an earlier checkpoint"
            )


def _joined(count: int, parts: Iterator[Floats]) -> Floats:
    """Parts of `count` rows as one array, without a second copy of them all."""
    found, at = np.empty(0, np.float32), 0
    for part in parts:
        found = found if at else np.empty((count, *part.shape[1:]), part.dtype)
        found[at : at + len(part)] = part
        at += len(part)
    return found


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
