"""How far a version is from the float32 model that it was made of, on images.

    .venv/bin/python export/numerics.py build/models/digits/2 --checkpoint build/lit --numerics_images photos

embeds images with the version, from the files' bytes as a server does, and with the checkpoint's float32 weights, in
JAX, and writes the cosines of the two and how often they agree on the best class into the version's manifest. Without
a folder of images it takes those of the golden requests, which are made, and whose figures say less. The export runs
it in a process of its own, since float32 weights need memory that the conversion does not. Between SavedModel and
server on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import concurrent.futures
import concurrent.futures.process
import dataclasses
import multiprocessing
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tyro
from flax import nnx

from export import apart, golden
from export.version_folder import rewrite
from vit22b import image, model, program, prompts, signature
from vit22b.checkpoint import Trained, Weights, load
from vit22b.folder import read_folder
from vit22b.signature import Manifest
from vit22b.tokenizer import Tokenizer
from vit22b.tree import Params

MAX_ERROR = 0.01
MOST_IMAGES = 64
_BATCH = 8

Answers = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Limit:
    """What an export with other weights than float32 has to keep to."""

    max_error: float | None = None
    """Largest 1 - cosine of an embedding and its float32 one, over the images, 0.01 if not given; beyond it the version
    is not written. Measured are weights of another type than float32, of a SavedModel with golden answers."""
    numerics_images: Path | None = None
    """Folder of images to measure on, 64 at most, evenly taken. If not given, the golden images: made, smooth colours,
    which say less than real ones."""

    def __post_init__(self) -> None:
        if not self.allowed >= 0:
            raise ValueError(f"--max_error is {self.allowed}; expected a number of 0 or more, such as {MAX_ERROR}")

    @property
    def allowed(self) -> float:
        """The largest 1 - cosine, whether given or not."""
        return MAX_ERROR if self.max_error is None else self.max_error


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure a version against the float32 weights of its checkpoint."""

    version: Annotated[Path, tyro.conf.Positional]
    """The version's folder."""
    checkpoint: Path
    """The step that it was exported from, or the work directory."""
    weights_from: Weights = "auto"
    """As export/to_savedmodel.py had it."""
    limit: Limit = dataclasses.field(default_factory=Limit)


def measure_apart(version: Path, checkpoint: Path, weights_from: Weights, limit: Limit) -> None:
    """Measures in a process of its own.

    Raises:
        ChildProcessError: the error is over the limit, or the version does not run; the process has said why.
    """
    arguments = [f"--checkpoint={checkpoint}", f"--weights_from={weights_from}", f"--max_error={limit.allowed}"]
    arguments += [f"--numerics_images={limit.numerics_images}"] if limit.numerics_images else []
    if apart.run("numerics.py", str(version), *arguments):
        raise ChildProcessError("the version was not measured, or is over --max_error (see above): it was not written")


def measure(settings: Settings) -> int:
    """Measures, completes the manifest, and judges; the exit code.

    Raises:
        ValueError: the version was not made of this checkpoint.
    """
    path = settings.version / signature.MANIFEST_FILE
    manifest = Manifest.from_json(path.read_text())
    images, source = _images(settings.limit.numerics_images, manifest)
    expected = _apart(settings, manifest, images)
    got = of_version(tf.saved_model.load(str(settings.version)).signatures, manifest, images)
    numerics = compare(expected, got)
    complete = dataclasses.replace(manifest, numerics={"images": len(images), "source": source, **numerics})
    rewrite(path, lambda beside: beside.write_text(complete.to_json()))
    error, agreement = 1 - numerics["cosine_min"], numerics["top1_agreement"]
    print(
        f"{manifest.weights} against float32, {len(images)} images ({source}): cosine at least "
        f"{numerics['cosine_min']:.6f}, mean {numerics['cosine_mean']:.6f}"
        + ("" if agreement is None else f", the same best class for {agreement:.1%}")
    )
    if settings.limit.numerics_images is None:
        print("golden images are made, smooth colours; --numerics_images DIR measures on real ones")
    if error <= settings.limit.allowed:  # false for what is not a number
        return 0
    print(
        f"error: weights in {manifest.weights} turn an embedding by 1 - cosine = {error:.3g}, and --max_error is "
        f"{settings.limit.allowed:g}; export with --weights {'bfloat16' if manifest.weights == 'int8' else 'float32'}"
        ", or allow more",
        file=sys.stderr,
    )
    return 1


def of_version(signatures: golden.Signatures, manifest: Manifest, images: Sequence[bytes]) -> Answers:
    """What the version answers for encoded images: embedding float32 [n, D], and `best`, the best class of each.

    Args:
        signatures: of the version.
        manifest: of the version.
        images: encoded.
    """
    batch = max(size for size in manifest.batch_sizes if size <= max(_BATCH, manifest.batch_sizes[0]))
    found = []
    for part in _parts(images, batch):
        encoded = tf.constant(part)
        answers = {"embedding": signatures[signature.EMBED_IMAGE](image_bytes=encoded)[signature.EMBEDDING].numpy()}
        if signature.CLASSIFY in signatures:
            answers["best"] = signatures[signature.CLASSIFY](image_bytes=encoded)[signature.CLASSES].numpy()[:, 0]
        elif signature.LOGITS in signatures:
            logits = signatures[signature.LOGITS](image_bytes=encoded)[signature.LOGITS_OUTPUT].numpy()
            answers["best"] = logits.argmax(axis=-1)
        found.append(answers)
    return _joined(found)


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
    """The manifest's figures of two sets of answers; top1_agreement is None where there are no classes."""
    cosines = np.sum(expected["embedding"].astype(np.float64) * got["embedding"], axis=-1)
    agreement = float(np.mean(expected["best"] == got["best"])) if "best" in got else None
    return {
        "cosine_min": float(cosines.min()),
        "cosine_mean": float(cosines.mean()),
        "top1_agreement": agreement,
    }


def _apart(settings: Settings, manifest: Manifest, images: Sequence[bytes]) -> Answers:
    """The float32 model's answers, by a process that takes its memory with it: two models at once would not fit."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        work = pool.submit(_load_and_run, settings.checkpoint, settings.weights_from, manifest, images)
        try:
            return work.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise ChildProcessError(
                "the float32 model was killed while it ran, as a process is where memory is short; measure on a "
                "machine with more than 4 bytes a parameter, or export with --golden none"
            ) from error


def _load_and_run(checkpoint: Path, weights_from: Weights, manifest: Manifest, images: Sequence[bytes]) -> Answers:
    jax.config.update("jax_platforms", "cpu")
    trained = load(checkpoint, weights=weights_from)
    spaces = (manifest.space_id, *manifest.compatible_with)
    if trained.space_id not in spaces:
        raise ValueError(
            f"the {trained.weights} of {checkpoint} have the space {trained.space_id}, and the version was made of one "
            f"of {', '.join(spaces)}; name the step and the --weights_from that it was exported from"
        )
    return of_float32(trained, manifest, images)


def _images(folder: Path | None, manifest: Manifest) -> tuple[list[bytes], str]:
    """The images to measure on, encoded, and what to call them."""
    if folder is None:
        return list(golden.image_bytes(manifest.batch_sizes[-1], manifest)), "golden images"
    records = read_folder(folder).records
    taken = np.unique(np.linspace(0, len(records) - 1, min(MOST_IMAGES, len(records))).astype(int))
    return [records[i].path.read_bytes() for i in taken], folder.name


def _pixels(images: Sequence[bytes], manifest: Manifest) -> npt.NDArray[np.uint8]:
    return np.asarray(image.preprocess_batch(tf.constant(images), manifest.preprocess))


def _parts(rows: Any, size: int) -> Iterator[Any]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _joined(answers: Sequence[Mapping[str, Any]]) -> Answers:
    return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    program.run(measure, Settings, __doc__, failures=(tf.errors.OpError,))
