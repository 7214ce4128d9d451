"""Export: a checkpoint in, a SavedModel version out.

    .venv/bin/python export/to_savedmodel.py --checkpoint build/lit --output build/models/digits

The version holds the signatures of vit22b/signature.py for every platform and any batch size, weights as variables, a
manifest (assets.extra/vit22b.json), and golden requests with their answers, which a server is warmed with and proves
itself by. It is written beside its place and renamed, so that no server sees half of it.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import datetime
import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Literal

import jax
import tensorflow as tf

from export.serving_module import PLATFORMS, Batching, ServingModule
from export.version_folder import choose_version, sha256, staged
from vit22b import program, signature
from vit22b.checkpoint import Trained, Weights, load
from vit22b.description import git_revision
from vit22b.signature import Manifest

# JAX promises to load an exported program for six months (docs.jax.dev, "Exporting and serialization").
GUARANTEE = datetime.timedelta(days=180)
_PACKAGES = ("flax", "jax", "jaxlib", "orbax-checkpoint", "tensorflow", "vit22b")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Export a checkpoint as a version of a served model."""

    checkpoint: Path
    """A work directory of train/pretrain.py or train/lit.py (its latest step), or one step in it."""
    output: Path
    """The model's folder in the repository, REPOSITORY/MODEL; the version is written below it."""
    weights_from: Weights = "auto"
    """ema: the moving average of the weights; params: as the last step left them; auto: the average where the
    checkpoint has one."""
    version: int | None = None
    """Number of the version; the next free one if not given. A version that exists is never overwritten."""
    platforms: tuple[str, ...] = PLATFORMS
    """What the program is lowered for."""
    batching: Literal["graph", "none"] = "graph"
    """graph: requests of several callers are joined inside the graph. none: each runs by itself, at any size."""
    batch_sizes: tuple[int, ...] = signature.BATCH_SIZES
    """Allowed batch sizes, ascending, all of them warmed before the version is AVAILABLE; the last caps a request."""
    batch_timeout_micros: int = Batching.timeout_micros
    """Longest wait of a request for others to join it."""
    batch_threads: int = Batching.threads
    """Batches that run at once."""
    batch_queue: int = Batching.queue
    """Full batches that may wait; beyond them a request is refused as UNAVAILABLE."""


def export(settings: Settings) -> None:
    """Writes the version.

    Raises:
        ValueError: no such checkpoint, a version that exists, or settings that do not fit.
        OSError: the folder cannot be written, or the version does not run here.
    """
    batching = Batching(
        settings.batching,
        settings.batch_sizes,
        settings.batch_timeout_micros,
        settings.batch_threads,
        settings.batch_queue,
    )
    unknown = set(settings.platforms) - set(PLATFORMS)
    if unknown or not settings.platforms:
        raise ValueError(f"--platforms are {settings.platforms}; expected some of {', '.join(PLATFORMS)}")
    output = settings.output.absolute()
    version = choose_version(output, settings.version)
    trained = load(settings.checkpoint, weights=settings.weights_from)
    module = ServingModule(trained.description, trained.params, batching, settings.platforms)
    manifest = make_manifest(trained, module, batching, settings.platforms)
    with staged(output, version) as folder:
        save(module, manifest, trained.description.tokenizer, folder)
        _record(folder, output.name)
    print(
        f"{output / str(version)}: step {trained.step} ({trained.weights}), space {manifest.space_id}, "
        f"{', '.join(manifest.signatures)}"
    )


def make_manifest(trained: Trained, module: ServingModule, batching: Batching, platforms: tuple[str, ...]) -> Manifest:
    """What the version will say of itself."""
    description = trained.description
    config, preprocess = description.config, description.preprocess
    today = datetime.date.today()
    return Manifest(
        space_id=trained.space_id,
        config=config,
        preprocess=preprocess,
        labels=description.labels,
        signatures=tuple(signature.signatures(config, preprocess)),
        batch_sizes=batching.sizes,
        batching=batching.kind == "graph",
        weights="float32",
        platforms=platforms,
        step=trained.step,
        source=trained.weights,
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        xla_call_module_version=module.xla_call_module_version,
        exported_on=today.isoformat(),
        loads_until=(today + GUARANTEE).isoformat(),
        git_revision=git_revision(),
    )


def save(module: ServingModule, manifest: Manifest, tokenizer: str | None, folder: Path) -> None:
    """Writes the SavedModel and, beside it, the manifest with the hashes of what was written."""
    aliases = {f"{name}_tower": tower for name, tower in module.towers.items()}
    tf.saved_model.save(
        module,
        str(folder),
        signatures=module.signatures(manifest.to_json()),
        options=tf.saved_model.SaveOptions(function_aliases=aliases),
    )
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    hashes = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    hashes[signature.TOKENIZER] = hashlib.sha256((tokenizer or "").encode()).hexdigest()
    path = folder / signature.MANIFEST_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dataclasses.replace(manifest, hashes=hashes).to_json())


def _record(folder: Path, model_name: str) -> None:
    """Golden answers come from a second process, which has nothing but the files."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("verify.py")),
        str(folder),
        "--record",
        "--model",
        model_name,
    ]
    if subprocess.run(command, check=False).returncode:
        raise ChildProcessError("the version does not run on this machine (see above), so it was not written")


if __name__ == "__main__":
    # Export needs no accelerator, and must not take one from a training run on the same host.
    jax.config.update("jax_platforms", "cpu")
    program.run(export, Settings, __doc__)
