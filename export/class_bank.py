"""Class names -> class bank -> `classify`: a zero-shot model that answers with the names of classes by itself.

Inside SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The bank
comes from the exported text tower itself, so that its vectors are those that the version would answer for the prompts,
in whatever type its weights are.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from flax import nnx

from export.towers import Tower
from export.version_folder import renew_fingerprint
from vit22b import model, prompts, signature
from vit22b.config import ModelConfig
from vit22b.signature import ClassBank, Signature, Tensor
from vit22b.tokenizer import Tokenizer
from vit22b.tree import Params

BANK = "class_bank"


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes that a zero-shot model is exported with."""

    classes: tuple[str, ...] = ()
    """Names of classes to bake in: adds the signatures classify and, for the Classify API, classify_examples."""
    classes_file: Path | None = None
    """A file with a class name a line, in place of --classes."""
    templates: tuple[str, ...] = ("general",)
    """Texts with one {} for the class's name, or names of sets: digits, general, name."""
    top: int = 5
    """How many classes an image is answered with, best first; all of them where there are fewer."""

    def bank(self, config: ModelConfig) -> ClassBank | None:
        """The classes as the manifest has them, or None where there are none.

        Raises:
            ValueError: a model without a text tower, two sources of names, a name twice, a text that is no template.
        """
        if self.classes and self.classes_file:
            raise ValueError("both --classes and --classes_file are given; expected one of them")
        names = prompts.read_names(self.classes_file) if self.classes_file else self.classes
        if not names and not self.classes_file:
            if (self.templates, self.top) != (Classes.templates, Classes.top):
                raise ValueError(
                    "--templates and --top are of --classes or --classes_file; give these too, or leave them out"
                )
            return None
        if config.text is None:
            raise ValueError(
                "--classes needs a model with a text tower, which this checkpoint has not; leave it out, or export a "
                "checkpoint of train/lit.py"
            )
        if self.top < 1:
            raise ValueError(f"--top is {self.top}; expected at least 1 class for an image")
        templates = prompts.find_templates(self.templates)
        prompts.prompts(names, templates)  # for its errors: all of them before the towers are traced
        return ClassBank(tuple(names), templates, min(self.top, len(names)))


def embed(
    tower: Callable[..., dict[str, tf.Tensor]], tokenizer: Tokenizer, bank: ClassBank, batch: int
) -> npt.NDArray[np.float32]:
    """One unit vector for each class, from the exported text tower.

    Args:
        tower: token_ids int32 [b, T] to embedding float32 [b, D].
        tokenizer: of the model.
        bank: names and templates.
        batch: prompts of a run; the last run is filled up, so that one program is compiled and no more.

    Returns:
        float32 [k, D].
    """

    def embedding(texts: list[str]) -> npt.NDArray[np.float32]:
        ids = tokenizer.encode(texts)
        filled = np.pad(ids, [(0, -len(ids) % batch), (0, 0)])
        parts = np.split(filled, len(filled) // batch)
        return np.concatenate([tower(tf.constant(part))[signature.EMBEDDING].numpy() for part in parts])[: len(ids)]

    return prompts.embedded(bank.classes, bank.templates, embedding)


def tower(config: ModelConfig, bank: ClassBank) -> Tower:
    """The tower behind the image tower: how well each of the K classes fits each image.

    Its parts are the class bank, float32 [K, D], and the checkpoint's temperature. It takes embedding float32 [B, D]
    and answers scores float32 [B, K]: those of an image sum to 1, or where the model was trained with sigmoids, each is
    a probability of its own.
    """
    graph, shapes = model.abstract(config)
    squash = jax.nn.sigmoid if config.similarity == "sigmoid" else jax.nn.softmax

    def scores(params: Params, embedding: jax.Array) -> dict[str, jax.Array]:
        temperature = {name: value for name, value in params.items() if name != BANK}
        with jax.default_matmul_precision("highest"):
            logits = nnx.merge(graph, {**shapes, **temperature}).similarity(embedding, params[BANK])
        return {signature.SCORES: squash(logits)}

    return Tower(
        scores,
        (BANK, "logit_scale", *(["logit_bias"] if config.similarity == "sigmoid" else [])),
        Signature(
            {signature.EMBEDDING: Tensor("float32", (None, config.image.embedding))},
            {signature.SCORES: Tensor("float32", (None, len(bank.classes)))},
        ),
    )


def best(scores: tf.Tensor, names: tf.Tensor, top: int) -> dict[str, tf.Tensor]:
    """The best classes of each image, best first; of equal ones the first of the list.

    Args:
        scores: float32 [b, k].
        names: of the classes, string [k].
        top: how many, at most k.
    """
    # In TensorFlow, since its reader of StableHLO is older than the op that jax.lax.top_k becomes.
    values, indices = tf.math.top_k(scores, top)
    return {signature.SCORES: values, signature.CLASSES: tf.gather(names, indices)}


def images_of(examples: tf.Tensor) -> tf.Tensor:
    """The images of tf.Examples as the Classify API brings them, serialised: string [b] in, image_bytes [b] out.

    Raises:
        tf.errors.InvalidArgumentError: when the op runs: no tf.Example, or one without one `image_bytes`.
    """
    features = {signature.IMAGE_BYTES: tf.io.FixedLenFeature([], tf.string)}
    return tf.io.parse_example(examples, features)[signature.IMAGE_BYTES]


def write_methods(folder: Path, methods: dict[str, str]) -> None:
    """Writes the API methods of signatures into a SavedModel, in which TensorFlow 2 calls every one `predict`.

    Args:
        folder: of the SavedModel.
        methods: signature -> method.
    """
    updater: Any = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    for name, method in methods.items():
        updater.replace_method_name(name, method, tags="serve")
    updater.save()
    renew_fingerprint(folder)
