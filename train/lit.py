"""Locked-image tuning: a pretrained image tower and captions in, a zero-shot model out.

    .venv/bin/python train/lit.py --checkpoint build/pretrain --data build/digits/train --workdir build/lit ...

The image tower is locked, so every image is embedded once, before training; the text tower learns from scratch to say
the same (Zhai et al. 2022, LiT): contrastive softmax over the whole batch, learned temperature. The checkpoint is
self-contained: the image tower and head byte for byte, the text tower, the temperature, the tokenizer. The same command
continues a run that was interrupted.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx
from jax.sharding import Mesh

from train.compute import Compute
from train.feed import local_rows
from train.hosts import Hosts, joined
from train.input import Order, index_batches
from train.locked import embeddings
from train.loop import train
from train.optimizer import Optimizer, advice, make, schedule
from train.resume import recipe
from train.run import Run
from train.state import Loss, abstract_state, init_state, make_step
from train.task import Task, Work
from vit22b import flops, model, program
from vit22b.checkpoint import Trained, load
from vit22b.description import Description, find_step, git_revision, read_description
from vit22b.config import text_tower
from vit22b.execution import Execution
from vit22b.folder import Folder, read_folder
from vit22b.sharding import batch_sharding
from vit22b.tokenizer import Tokenizer, train_tokenizer
from vit22b.tree import Params

TRAINED = ("text", "logit_scale")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Run):
    """Train a text tower against a locked image tower."""

    checkpoint: Path
    """Pretrained image tower: its work directory (the latest step), or one step in it."""
    data: Path
    """Folder of images with a metadata.jsonl that has "caption" on its lines."""
    steps: int = 20_000
    batch: int = 4096
    """Pairs of image and caption a step; all of them are each other's negatives."""
    vocabulary: int = 8000
    """Largest number of token ids of the tokenizer, which is trained on the captions."""
    optimizer: Optimizer = dataclasses.field(
        default_factory=lambda: Optimizer(warmup=1000, cooldown=5000, body_decay=0.0, head_decay=0.0)
    )
    compute: Compute = dataclasses.field(default_factory=Compute)
    hosts: Hosts = dataclasses.field(default_factory=Hosts)
    # There is no evaluation and no probe here: these have no flag.
    signals_every: tyro.conf.Suppress[int | None] = None
    keep_best: tyro.conf.Suppress[int] = 0
    eval_every: tyro.conf.Suppress[int | None] = None


def contrastive_loss(graph: nnx.GraphDef[model.Model], frozen: Params, execution: Execution = Execution()) -> Loss:
    """Softmax cross-entropy of every image among all texts and of every text among all images, their mean.

    Args:
        graph: of the whole model.
        frozen: the shapes of what is not trained; only the text tower runs.
        execution: how it runs.
    """

    def loss(params: Params, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        network = nnx.merge(graph, {**frozen, **params})
        texts = network.embed_text(batch["token_ids"], execution)["embedding"]
        scale = jnp.exp(params["logit_scale"])
        logits = scale * batch["images"] @ texts.T
        pairs = jnp.arange(logits.shape[0])
        by_image = optax.softmax_cross_entropy_with_integer_labels(logits, pairs).mean()
        by_text = optax.softmax_cross_entropy_with_integer_labels(logits.T, pairs).mean()
        return (by_image + by_text) / 2, {"temperature": scale}

    return loss


def tune(settings: Settings) -> None:
    """Runs locked-image tuning as the settings say; see train.loop.train for what it raises."""
    if settings.compute.accumulate > 1:
        raise ValueError(
            f"--accumulate is {settings.compute.accumulate}, but the contrastive loss is over the whole batch, and its "
            "parts would have fewer negatives; leave it out, and take --remat full or more devices to save memory"
        )
    with joined(settings.hosts):
        folder = read_folder(settings.data)
        captions = _captions(folder, settings.data)
        if settings.batch > len(captions):
            raise ValueError(
                f"--batch is {settings.batch}, but there are {len(captions)} pairs; take a batch of at most that"
            )
        mesh = settings.compute.make_mesh()
        task = make_task(settings, folder, captions, mesh)
        if note := advice(settings.optimizer, settings.steps):
            print(note)
        if not settings.compute.shows_sharding({**task.locked, **task.target.params}, mesh):
            train(task, settings, mesh)


def make_task(settings: Settings, folder: Folder, captions: list[str], mesh: Mesh) -> Task:
    """What is trained: a text tower and the temperature, beside the image tower of the checkpoint."""
    settings.compute.check_batch(settings.batch, mesh)
    settings.compute.check_model(read_description(settings.checkpoint).config)
    source = load(settings.checkpoint, mesh, rules=settings.compute.rules)
    tokenizer = train_tokenizer(captions, settings.vocabulary)
    description = describe(settings.checkpoint, source, tokenizer)
    text, of_image = description.config.text, description.source
    assert text is not None
    assert of_image is not None
    optimizer = make(settings.optimizer, settings.steps)
    graph, shapes = model.abstract(description.config)
    execution = settings.compute.execution(mesh)
    # The space is that of the weights in float32, as they are served.
    in_float32 = dataclasses.replace(execution, dtype=jnp.float32)

    def init(key: jax.Array) -> Params:
        params = model.init(description.config, key)
        return {name: params[name] for name in TRAINED}

    def batches(order: Order) -> Generator[dict[str, Any], None, None]:
        images = embeddings(source, of_image["space_id"], folder.records, settings, in_float32)
        token_ids = tokenizer.encode(captions)
        rows = local_rows(batch_sharding(mesh), settings.batch)
        return ({"images": images[index[rows]], "token_ids": token_ids[index[rows]]} for index in index_batches(order))

    def names(step: int) -> list[str]:
        (index,) = index_batches(Order(len(captions), settings.batch, settings.seed, step - 1, step))
        return [folder.records[i].name for i in index]

    target = abstract_state(init, optimizer, mesh, settings.optimizer.ema > 0, settings.compute.rules)
    loss = contrastive_loss(graph, shapes, execution)
    return Task(
        description=description,
        target=target,
        locked={name: source.params[name] for name in shapes if name not in TRAINED},
        init=lambda: init_state(init, optimizer, target, settings.seed),
        step=make_step(loss, optimizer, target, ema=settings.optimizer.ema),
        examples=len(captions),
        batches=batches,
        names=names,
        learning_rate=schedule(settings.optimizer, settings.steps),
        recipe={**recipe(settings, beside=("checkpoint",)), "dtype": jnp.dtype(execution.dtype).name},
        work=Work(text.length, flops.train(text, text.length)),
    )


def describe(checkpoint: Path, source: Trained, tokenizer: Tokenizer) -> Description:
    """What the checkpoints will say of the model: the image tower's own description, the text tower, the source.

    A text tower that came with the image tower, as CLIP's, is replaced.
    """
    of_image = source.description
    text = text_tower(of_image.config.image, tokenizer.vocabulary, tokenizer.length)
    return dataclasses.replace(
        of_image,
        config=dataclasses.replace(of_image.config, text=text, similarity="softmax"),
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
