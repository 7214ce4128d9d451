"""What a version and the float32 model that it was made of answer for the same images, and how far apart that is.

Under export/numerics.py, between SavedModel and server on the walk image -> batch -> train state -> checkpoint ->
SavedModel -> server -> client. The version gets the files' bytes, as a server does; the float32 model is the
checkpoint's, in JAX.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from flax import nnx

from export import golden
from vit22b import image, model, prompts, signature
from vit22b.checkpoint import Trained
from vit22b.signature import Manifest
from vit22b.tokenizer import Tokenizer
from vit22b.tree import Params

_BATCH = 8

Answers = dict[str, npt.NDArray[Any]]


def of_version(signatures: golden.Signatures, manifest: Manifest, images: Sequence[bytes]) -> Answers:
    """What the version answers for encoded images: embedding float32 [n, D], and `best`, the best class of each.

    With a text tower also text_embedding float32 [k, d], of the golden requests' texts.

    Args:
        signatures: of the version.
        manifest: of the version.
        images: encoded.
    """
    batch, found = _batch(manifest), []
    for part in _parts(images, batch):
        encoded = tf.constant(part)
        answers = {"embedding": signatures[signature.EMBED_IMAGE](image_bytes=encoded)[signature.EMBEDDING].numpy()}
        if signature.CLASSIFY in signatures:
            answers["best"] = signatures[signature.CLASSIFY](image_bytes=encoded)[signature.CLASSES].numpy()[:, 0]
        elif signature.LOGITS in signatures:
            logits = signatures[signature.LOGITS](image_bytes=encoded)[signature.LOGITS_OUTPUT].numpy()
            answers["best"] = logits.argmax(axis=-1)
        found.append(answers)
    embedded = {}
    if signature.EMBED_TEXT in signatures:
        ids = golden.token_ids(batch, manifest, signatures[signature.DESCRIBE]()[signature.TOKENIZER].numpy().decode())
        answer = signatures[signature.EMBED_TEXT](token_ids=tf.constant(ids))
        embedded["text_embedding"] = answer[signature.EMBEDDING].numpy()
    return {**_joined(found), **embedded}


def of_float32(trained: Trained, manifest: Manifest, images: Sequence[bytes]) -> Answers:
    """The same of a checkpoint's float32 weights, in JAX.

    Args:
        trained: the checkpoint.
        manifest: of the version that was made of it.
        images: encoded.
    """
    graph, shapes = model.abstract(manifest.config)

    @jax.jit
    def embed(params: Params, pixels: jax.Array) -> Mapping[str, jax.Array]:
        network = nnx.merge(graph, {**shapes, **params})
        out = network.embed_image(model.normalise(pixels, manifest.preprocess))
        return {name: out[name] for name in ("embedding", "logits") if name in out}

    @jax.jit
    def embed_text(params: Params, token_ids: jax.Array) -> jax.Array:
        return nnx.merge(graph, {**shapes, **params}).embed_text(token_ids)["embedding"]

    tower = {name: part for name, part in trained.params.items() if name in ("image", "head")}
    with jax.default_matmul_precision("highest"):
        found = _joined([embed(tower, _pixels(part, manifest)) for part in _parts(images, _BATCH)])
        if signature.EMBED_TEXT in manifest.signatures:
            ids = golden.token_ids(_batch(manifest), manifest, trained.description.tokenizer or "")
            found["text_embedding"] = np.asarray(embed_text({"text": trained.params["text"]}, ids))
        if bank := manifest.class_bank:
            encode = Tokenizer.from_json(trained.description.tokenizer or "").encode
            text = {"text": trained.params["text"]}
            vectors = prompts.embedded(
                bank.classes,
                bank.templates,
                lambda texts: np.concatenate([embed_text(text, part) for part in _parts(encode(texts), _BATCH)]),
            )
            names = np.array([name.encode() for name in bank.classes], object)
            found["best"] = names[(found["embedding"] @ vectors.T).argmax(axis=-1)]
        elif "logits" in found:
            found["best"] = found["logits"].argmax(axis=-1)
    return found


def compare(expected: Answers, got: Answers) -> dict[str, float | None]:
    """The manifest's figures of two sets of answers; None where there are no classes, or no texts."""
    cosines = _cosines(expected["embedding"], got["embedding"])
    texts = _cosines(expected["text_embedding"], got["text_embedding"]) if "text_embedding" in got else None
    agreement = float(np.mean(expected["best"] == got["best"])) if "best" in got else None
    return {
        "cosine_min": float(cosines.min()),
        "cosine_mean": float(cosines.mean()),
        "top1_agreement": agreement,
        "text_cosine_min": None if texts is None else float(texts.min()),
    }


def _pixels(images: Sequence[bytes], manifest: Manifest) -> npt.NDArray[np.uint8]:
    return np.asarray(image.preprocess_batch(tf.constant(images), manifest.preprocess))


def _batch(manifest: Manifest) -> int:
    """The largest allowed batch size that is not too large for a host without an accelerator."""
    return max(size for size in manifest.batch_sizes if size <= max(_BATCH, manifest.batch_sizes[0]))


def _cosines(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return np.asarray(np.sum(a * b, axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)))


def _parts(rows: Any, size: int) -> Iterator[Any]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _joined(answers: Sequence[Mapping[str, Any]]) -> Answers:
    return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}
