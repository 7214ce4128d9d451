"""Locked-image tuning: a pretrained image tower and captions in, a zero-shot model out.

    .venv/bin/python train/lit.py --checkpoint build/pretrain --data build/digits/train --workdir build/lit ...

The image tower is locked, so every image is embedded once, before training; the text tower learns from scratch to say
the same (Zhai et al. 2022, LiT): contrastive softmax over the whole batch, learned temperature. The checkpoint is
self-contained: the image tower and head byte for byte, the text tower, the temperature, the tokenizer. The same command
continues a run that was interrupted.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from train.input import Order, index_batches
from train.loop import Run, Task, recipe, train
from train.optimizer import Optimizer, make, schedule
from train.state import Loss, abstract_state, init_state, make_step
from vit22b import model, program, sharding
from vit22b.checkpoint import Description, Trained, find_step, git_revision, load
from vit22b.config import text_tower
from vit22b.embedder import embed_files
from vit22b.folder import Folder, read_folder
from vit22b.tokenizer import Tokenizer, train_tokenizer

TRAINED = ("text", "logit_scale")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train a text tower against a locked image tower."""

    checkpoint: Path
    """Pretrained image tower: its work directory (the latest step), or one step in it."""
    data: Path
    """Folder of images with a metadata.jsonl that has "caption" on its lines."""
    workdir: Path
    """Where checkpoints and metrics go; a run that is there is continued."""
    steps: int = 20_000
    """Length of the run."""
    batch: int = 4096
    """Pairs of image and caption a step; all of them are each other's negatives."""
    vocabulary: int = 8000
    """Largest number of token ids of the tokenizer, which is trained on the captions."""
    seed: int = 0
    """Of the initial weights and of the order."""
    optimizer: Optimizer = dataclasses.field(
        default_factory=lambda: Optimizer(warmup=1000, cooldown=5000, body_decay=0.0, head_decay=0.0)
    )
    mesh_data: int = 1
    """Devices along the mesh axis data."""
    mesh_model: int = 1
    """Devices along the mesh axis model."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    save_every: int = 1000
    """Steps between two checkpoints."""
    keep: int = 2
    """Checkpoints to keep."""


def contrastive_loss(graph: nnx.GraphDef[model.Model], frozen: model.Params) -> Loss:
    """Softmax cross-entropy of every image among all texts and of every text among all images, their mean.

    Args:
        graph: of the whole model.
        frozen: the shapes of what is not trained; only the text tower runs.
    """

    def loss(params: model.Params, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        network = nnx.merge(graph, {**frozen, **params})
        texts = network.embed_text(batch["token_ids"])["embedding"]
        scale = jnp.exp(params["logit_scale"])
        logits = scale * batch["images"] @ texts.T
        pairs = jnp.arange(logits.shape[0])
        by_image = optax.softmax_cross_entropy_with_integer_labels(logits, pairs).mean()
        by_text = optax.softmax_cross_entropy_with_integer_labels(logits.T, pairs).mean()
        return (by_image + by_text) / 2, {"temperature": scale}

    return loss


def tune(settings: Settings) -> None:
    """Runs locked-image tuning as the settings say; see train.loop.train for what it raises."""
    run = Run(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Run)})
    folder = read_folder(settings.data)
    captions = _captions(folder, settings.data)
    if run.batch > len(captions):
        raise ValueError(f"--batch is {run.batch}, but there are {len(captions)} pairs; take a batch of at most that")
    mesh = sharding.make_mesh(settings.mesh_data, settings.mesh_model)
    source = load(settings.checkpoint, mesh)
    locked = {name: leaf for name, leaf in source.params.items() if name not in TRAINED}
    tokenizer = train_tokenizer(captions, settings.vocabulary)
    description = describe(settings.checkpoint, source, tokenizer)
    optimizer = make(settings.optimizer, settings.steps)
    graph, shapes = model.abstract(description.config)

    def init(key: jax.Array) -> model.Params:
        params = model.init(description.config, key)
        return {name: params[name] for name in TRAINED}

    target = abstract_state(init, optimizer, mesh)

    def batches(order: Order) -> Iterator[dict[str, Any]]:
        print(f"embedding {len(captions):,} images once")
        images = embed_files(source, [record.path for record in folder.records])
        token_ids = tokenizer.encode(captions)
        return ({"images": images[index], "token_ids": token_ids[index]} for index in index_batches(order))

    task = Task(
        description=description,
        target=target,
        locked=locked,
        init=lambda: init_state(init, optimizer, target, run.seed),
        step=make_step(contrastive_loss(graph, shapes), optimizer, target),
        examples=len(captions),
        batches=batches,
        learning_rate=schedule(settings.optimizer, run.steps),
        recipe=recipe(settings),
    )
    train(task, run, mesh)


def describe(checkpoint: Path, source: Trained, tokenizer: Tokenizer) -> Description:
    """What the checkpoints will say of the model: the image tower's own description, the text tower, the source."""
    of_image = source.description
    config = of_image.config
    return dataclasses.replace(
        of_image,
        config=dataclasses.replace(config, text=text_tower(config.image, tokenizer.vocabulary, tokenizer.length)),
        tokenizer=tokenizer.to_json(),
        source={"checkpoint": f"{find_step(checkpoint)[0]}/checkpoints/{source.step}", "space_id": source.space_id},
        git_revision=git_revision(),
    )


def _captions(folder: Folder, path: Path) -> list[str]:
    captions = [record.caption for record in folder.records if record.caption]
    if len(captions) < len(folder.records):
        first = next(record.name for record in folder.records if not record.caption)
        raise ValueError(
            f"{len(folder.records) - len(captions)} of the {len(folder.records)} images in {path} have no caption, "
            f'{first} is the first; give each line of metadata.jsonl a "caption"'
        )
    return captions


if __name__ == "__main__":
    program.run(tune, Settings, __doc__, failures=(FloatingPointError,))
