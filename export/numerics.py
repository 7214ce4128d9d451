"""How far a version is from the float32 model that it was made of, on images.

    .venv/bin/python export/numerics.py build/models/digits/2 --checkpoint build/lit --numerics_images photos

embeds images with the version, from the files' bytes as a server does, and with the checkpoint's float32 weights, in
JAX, and writes the cosines of the two and how often they agree on the best class into the version's manifest; with a
text tower also the cosines of the golden requests' texts. Without a folder of images it takes parts of two photographs,
which are of no class that the model knows. The export runs it in a process of its own, since float32 weights need
memory that the conversion does not. Between SavedModel and server on the walk image -> batch -> train state ->
checkpoint -> SavedModel -> server -> client.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import concurrent.futures
import concurrent.futures.process
import dataclasses
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tensorflow as tf
import tyro
from sklearn.datasets import load_sample_images

from export import apart, artefact, precision
from export.precision import Answers
from export.version_folder import rewrite
from vit22b import program, signature
from vit22b.checkpoint import Weights, load
from vit22b.folder import read_folder
from vit22b.signature import Manifest

MAX_ERROR = 0.01
MOST_IMAGES = 64


@dataclasses.dataclass(frozen=True)
class Limit:
    """What an export with other weights than float32 has to keep to."""

    max_error: float | None = None
    """Largest 1 - cosine of an embedding and its float32 one, over the images and, with a text tower, some texts; 0.01
    if not given. Beyond it the version is not written. Measured are weights of another type than float32, of a
    SavedModel with golden answers."""
    numerics_images: Path | None = None
    """Folder of images to measure on, 64 at most, evenly taken: best those that the model is for. If not given, eight
    parts of two photographs."""

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
    manifest = artefact.read_manifest(settings.version)
    images, source = _images(settings.limit.numerics_images)
    expected = _apart(settings, manifest, images)
    got = precision.of_version(tf.saved_model.load(str(settings.version)).signatures, manifest, images)
    numerics = precision.compare(expected, got)
    complete = dataclasses.replace(manifest, numerics={"images": len(images), "source": source, **numerics})
    rewrite(path, lambda beside: beside.write_text(complete.to_json()))
    smallest, agreement, texts = (numerics[name] for name in ("cosine_min", "top1_agreement", "text_cosine_min"))
    print(
        f"{manifest.weights} against float32, {len(images)} images ({source}): cosine at least {smallest:.6f}, mean "
        f"{numerics['cosine_mean']:.6f}"
        + ("" if agreement is None else f", the same best class for {agreement:.1%}")
        + ("" if texts is None else f"; texts: cosine at least {texts:.6f}")
    )
    if settings.limit.numerics_images is None:
        print("--numerics_images DIR measures on the images that the model is for")
    error = 1 - float(np.min([smallest, smallest if texts is None else texts]))
    if error <= settings.limit.allowed:  # false for what is not a number
        return 0
    print(
        f"error: weights in {manifest.weights} turn an embedding by 1 - cosine = {error:.3g}, and --max_error is "
        f"{settings.limit.allowed:g}; export with --weights {'bfloat16' if manifest.weights == 'int8' else 'float32'}"
        ", or allow more",
        file=sys.stderr,
    )
    return 1


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
    return precision.of_float32(trained, manifest, images)


def _images(folder: Path | None) -> tuple[list[bytes], str]:
    """The images to measure on, encoded, and what to call them."""
    if folder is None:
        return list(_photographs()), "parts of two photographs"
    records = read_folder(folder).records
    taken = np.unique(np.linspace(0, len(records) - 1, min(MOST_IMAGES, len(records))).astype(int))
    return [records[i].path.read_bytes() for i in taken], folder.name


def _photographs() -> Iterator[bytes]:
    """The quarters of scikit-learn's two sample photographs, a temple and a flower, as PNG files."""
    for photograph in load_sample_images().images:
        for half in np.array_split(photograph, 2, axis=0):
            for quarter in np.array_split(half, 2, axis=1):
                yield tf.io.encode_png(quarter).numpy()


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    program.run(measure, Settings, __doc__, failures=(tf.errors.OpError,))
