"""A checkpoint as a tower that is judged: its towers and head, compiled here.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from train.tower import Floats, Image, TowerFeatures
from vit22b.checkpoint import Trained, load
from vit22b.description import find_step, read_description
from vit22b.execution import Execution
from vit22b.image import image_batches
from vit22b.model import abstract, normalise
from vit22b.sharding import RULES, Rules, param_shardings
from vit22b.tokenizer import Tokenizer
from vit22b.tree import Params, digest, whole

BATCH = 64  # images at once: a batch of all tokens and some layers of a small tower still fits a processor's cache


class CheckpointTower:
    """A trained model, read from a checkpoint; see train.tower.Tower for what it answers.

    Its weights are read once, by the first who needs them: space_id and fingerprint do, too.
    """

    def __init__(self, path: Path, execution: Execution = Execution()) -> None:
        """Opens the checkpoint: a work directory, its latest step then, or a step in it.

        Raises:
            ValueError: no checkpoint of ours; see vit22b.description.find_step.
        """
        workdir, step = find_step(path)
        self.step = step
        self.source, self.checkpoint = f"checkpoint:{path}", workdir / "checkpoints" / str(step)
        description = read_description(self.checkpoint)  # training may have saved another meanwhile
        self.config, self.preprocess, self.labels = description.config, description.preprocess, description.labels
        self.layers = tuple(range(self.config.image.depth))
        self._tokenizer = Tokenizer.from_json(description.tokenizer) if description.tokenizer else None
        self._trained: Trained | None = None
        self._execution = execution
        self._graph, _ = abstract(self.config)
        self._compiled: dict[tuple[str, ...], Callable[..., Any]] = {}

    @functools.cached_property
    def space_id(self) -> str:
        """See Tower; raises as vit22b.checkpoint.load where the weights are read for it."""
        return self._read().space_id

    @functools.cached_property
    def head(self) -> str | None:
        """See Tower; raises as space_id."""
        return digest(self._params["head"]) if "head" in self._params else None

    @functools.cached_property
    def fingerprint(self) -> str | None:
        """See Tower; raises as space_id."""
        found = f"{self.space_id}-{self.head or 'headless'}"
        dtype = np.dtype(self._execution.dtype)
        return found if dtype == np.float32 else f"{found}-{dtype.name}"

    def placed(self, mesh: Mesh, rules: Rules = RULES) -> Params:
        """The weights on a mesh: read onto it where they were not read yet, else brought there.

        Raises:
            ValueError: see vit22b.checkpoint.load.
        """
        if self._trained is None:
            self._trained = load(self.checkpoint, mesh, rules=rules)
            return self._trained.params
        placed: Params = jax.device_put(self._params, param_shardings(self._params, mesh, rules))
        return placed

    def features(self, images: Sequence[Image], *, tokens: bool = False, layers: Sequence[int] = ()) -> TowerFeatures:
        """See Tower."""
        outputs = ("pooled", *(("tokens",) if tokens else ()), *(f"tokens_{layer}" for layer in sorted(set(layers))))
        found = self._run(images, outputs, tuple(sorted(set(layers))))
        return TowerFeatures(found["pooled"], found.get("tokens"), {k: found[f"tokens_{k}"] for k in layers})

    def embeddings(self, images: Sequence[Image]) -> Floats:
        """See Tower."""
        return self._run(images, ("embedding",))["embedding"]

    def logits(self, images: Sequence[Image]) -> Floats:
        """See Tower."""
        self._require_head()
        return self._run(images, ("logits",))["logits"]

    def pixel_logits(self, pixels: np.ndarray) -> Floats:
        """float32 [n, Y] of decoded images, uint8 [n, R, R, 3]."""
        self._require_head()
        return whole(self._function(("logits",), ())(self._params, pixels)["logits"])

    def texts(self, texts: Sequence[str]) -> Floats:
        """See Tower."""
        if self._tokenizer is None:
            raise ValueError(f"{self.source} has no text tower; train one with train/lit.py")
        ids = self._tokenizer.encode(texts)
        rows = [
            whole(self._embed_texts(self._params, _filled(ids[at : at + BATCH]))) for at in range(0, len(ids), BATCH)
        ]
        return np.concatenate(rows)[: len(ids)]

    def close(self) -> None:
        """See Tower."""
        self._compiled.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> Trained:
        if self._trained is None:
            self._trained = load(self.checkpoint)
        return self._trained

    @property
    def _params(self) -> Params:
        return self._read().params

    def _require_head(self) -> None:
        if not self.config.classes:
            raise ValueError(f"{self.source} has no head; train one with train/pretrain.py or train/finetune.py")

    def _run(
        self, images: Sequence[Image], outputs: tuple[str, ...], layers: tuple[int, ...] = ()
    ) -> dict[str, Floats]:
        """The outputs of all images; batches have one shape, so that one program answers them."""
        if not len(images):
            raise ValueError("there are no images; expected one or more")
        function = self._function(outputs, layers)
        parts: dict[str, list[Floats]] = {name: [] for name in outputs}
        for pixels in image_batches(images, self.preprocess, BATCH):
            found = function(self._params, _filled(pixels))
            for name in outputs:
                parts[name].append(whole(found[name])[: len(pixels)])
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def _function(self, outputs: tuple[str, ...], layers: tuple[int, ...]) -> Callable[..., Mapping[str, jax.Array]]:
        if outputs not in self._compiled:

            @jax.jit
            def answer(params: Params, pixels: jax.Array) -> dict[str, jax.Array]:
                images = normalise(pixels, self.preprocess, self._execution.dtype)
                found = nnx.merge(self._graph, params).embed_image(images, layers, self._execution)
                return {name: found[name] for name in outputs}

            self._compiled[outputs] = answer
        return self._compiled[outputs]

    @functools.cached_property
    def _embed_texts(self) -> Callable[[Params, np.ndarray], jax.Array]:
        return jax.jit(lambda params, ids: nnx.merge(self._graph, params).embed_text(ids, self._execution)["embedding"])


def _filled(rows: np.ndarray) -> np.ndarray:
    """The rows, repeated up to a whole batch."""
    return rows if len(rows) == BATCH else np.concatenate([rows, np.repeat(rows[:1], BATCH - len(rows), axis=0)])
