"""Export: a checkpoint in, a SavedModel version out.

    .venv/bin/python export/to_savedmodel.py --checkpoint build/lit --output build/models/digits

The version holds the signatures of vit22b/signature.py for every platform and any batch size, weights as variables, a
manifest and a model card (assets.extra/vit22b.json, README.md), and golden requests with their answers, which a server
is warmed with and proves itself by. It is written beside its place and renamed, so that no server sees half of it.
"""

import os

# Before TensorFlow is imported. Its own pool of memory keeps what the weights took, while the processes that run the
# version need it.
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import datetime
import gc
import hashlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import jax
import tensorflow as tf

from export import apart, model_card, numerics, stablehlo, variables
from export.batching import Batching
from export.class_bank import write_methods
from export.serving_module import ServingModule
from export.settings import (
    Settings,
    check_format,
    check_layers,
    check_neighbours,
    check_numerics,
    check_platforms,
)
from export.tpu_target import Target
from export.variables import Variables
from export.version_folder import choose_version, sha256, staged
from vit22b import program, signature, version_window
from vit22b.description import git_revision
from vit22b.report_rows import ReportRows, read_rows
from vit22b.stored_layers import Layers, open_layers
from vit22b.quantised import TOLERANCES, weight_bytes
from vit22b.signature import ClassBank, Manifest
from vit22b.version_window import Program

_PACKAGES = ("flax", "jax", "jaxlib", "orbax-checkpoint", "tensorflow", "vit22b")


def export(settings: Settings) -> None:
    """Writes the version.

    Raises:
        ValueError: no such checkpoint, a version that exists, or settings that do not fit.
        OSError: the folder cannot be written, or the version does not run here.
    """
    check_platforms(settings)
    check_format(settings)
    check_neighbours(settings)
    check_numerics(settings)
    report = None if settings.report is None else read_rows(settings.report)
    output = settings.output.absolute()
    choose_version(output, settings.version)  # so that one that is there is told before anything is read
    layers = open_layers(settings.checkpoint, settings.weights_from)
    description = layers.description
    check_layers(settings.feature_layers, description.config.image.depth)
    bank = settings.classes.bank(description.config)
    settings.target.require_fit(description.config, settings.weights, settings.batching.sizes)
    write = _write_stablehlo if settings.format.format == "stablehlo" else _write_savedmodel
    with staged(output, settings.version, weight_bytes(description.config, settings.weights)) as stage:
        manifest = write(settings, layers, bank, stage.folder, report)
        model_card.write(stage.folder, output.name, layers, report)
    if settings.weights != "float32" and settings.unmeasured:
        print(f"{settings.weights} against float32: not measured, since {settings.unmeasured}")
    print(
        f"{output / str(stage.version)}: step {layers.step} ({layers.weights}), space {manifest.space_id}, "
        f"{', '.join(manifest.signatures)}"
    )


def _write_savedmodel(
    settings: Settings, layers: Layers, bank: ClassBank | None, folder: Path, report: ReportRows | None
) -> Manifest:
    manifest = _convert(settings, layers, bank, folder, report)
    gc.collect()  # the graph refers to itself; what comes next needs the memory of its weights
    settings.target.prove(folder)
    if settings.golden == "recorded":
        _record(folder, settings.output.absolute().name)
        if not settings.unmeasured:
            numerics.measure_apart(folder, layers.folder, settings.weights_from, settings.limit)
    return manifest


def _convert(
    settings: Settings, layers: Layers, bank: ClassBank | None, folder: Path, report: ReportRows | None
) -> Manifest:
    """Writes the version as it is before it ran."""
    description, batching = layers.description, settings.target.batching(settings.batching)
    weights = variables.stream(layers, settings.weights)
    model_card.check_report(report, (weights.space_id, weights.float32_space_id), layers)
    module = ServingModule(description, weights, batching, settings.platforms, settings.feature_layers, bank)
    manifest = make_manifest(settings, layers, weights, module.programs, bank)
    save(module, manifest, description.tokenizer, folder, settings.target, settings.batching)
    return manifest


def _write_stablehlo(
    settings: Settings, layers: Layers, bank: ClassBank | None, folder: Path, report: ReportRows | None
) -> Manifest:
    weights = variables.stream(layers, settings.weights)
    model_card.check_report(report, (weights.space_id, weights.float32_space_id), layers)
    exported = stablehlo.programs(
        layers.description, weights.weights, settings.platforms, settings.feature_layers, settings.format.abstract_mesh
    )
    found = [Program.of(one.calling_convention_version, one.mlir_module_serialized) for one in exported.values()]
    # Its golden answers would be another file; jax.export's programs have no server that reads one.
    manifest = dataclasses.replace(
        make_manifest(settings, layers, weights, found, bank),
        signatures=tuple(stablehlo.SIGNATURES[tower] for tower in exported),
        batch_sizes=(),
        batching=False,
        golden="none",
    )
    stablehlo.write(folder, exported, weights.tree, layers.description.tokenizer)
    write_manifest(manifest, layers.description.tokenizer, folder)
    return manifest


def make_manifest(
    settings: Settings, layers: Layers, weights: Variables, programs: Sequence[Program], bank: ClassBank | None
) -> Manifest:
    """What the version will say of itself."""
    description = layers.description
    config, preprocess = description.config, description.preprocess
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return Manifest(
        space_id=weights.space_id,
        config=config,
        preprocess=preprocess,
        labels=description.labels,
        signatures=tuple(signature.signatures(config, preprocess, settings.feature_layers, bank)),
        batch_sizes=settings.batching.sizes,
        batching=settings.target.batching(settings.batching).kind == "graph",
        weights=weights.weights,
        platforms=settings.platforms,
        step=layers.step,
        source=layers.weights,
        versions=versions,
        xla_call_module_version=max(program.version for program in programs),
        stablehlo_version=programs[0].stablehlo,
        exported_on=datetime.date.today().isoformat(),
        loads_until=version_window.loads_until(versions["jax"]).isoformat(),
        git_revision=git_revision(),
        feature_layers=settings.feature_layers,
        class_bank=bank,
        golden=settings.golden,
        target=settings.target.target,
        format=settings.format.format,
        mesh=settings.format.axes,
        compatible_with=() if weights.weights == "float32" else (weights.float32_space_id,),
        tolerance=TOLERANCES[weights.weights],
    )


def save(
    module: ServingModule,
    manifest: Manifest,
    tokenizer: str | None,
    folder: Path,
    target: Target,
    batching: Batching,
) -> None:
    """Writes the SavedModel and, beside it, what its target needs and the manifest.

    Args:
        module: the graph.
        manifest: without hashes.
        tokenizer: its JSON text.
        folder: to write into.
        target: see Target.
        batching: that a converter shall put around the towers; the graph's own is in the module.
    """
    aliases = {f"{name}_tower": tower for name, tower in module.towers.items()}
    tf.saved_model.save(
        module,
        str(folder),
        signatures=module.signatures(manifest.to_json()),
        options=tf.saved_model.SaveOptions(function_aliases=aliases),
    )
    if manifest.class_bank:
        write_methods(folder, {signature.CLASSIFY_EXAMPLES: signature.CLASSIFY_METHOD})
    target.write(folder, batching)
    write_manifest(manifest, tokenizer, folder)


def write_manifest(manifest: Manifest, tokenizer: str | None, folder: Path) -> None:
    """Writes the manifest with the hashes of what was written."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    hashes = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    hashes[signature.TOKENIZER] = hashlib.sha256((tokenizer or "").encode()).hexdigest()
    path = folder / signature.MANIFEST_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dataclasses.replace(manifest, hashes=hashes).to_json())


def _record(folder: Path, model_name: str) -> None:
    """Golden answers come from a second process, which has nothing but the files."""
    if apart.run("verify.py", str(folder), "--record", "--model", model_name):
        raise ChildProcessError(
            "golden answers were not recorded (see above), so the version was not written; where this machine cannot "
            "run it, --golden none leaves that to another one"
        )


if __name__ == "__main__":
    # Export needs no accelerator, and must not take one from a training run on the same host.
    jax.config.update("jax_platforms", "cpu")
    program.run(export, Settings, __doc__, failures=(tf.errors.OpError,))
