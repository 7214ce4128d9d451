"""An exported version, as it is read before it is run: its manifest, its files, its signatures.

Between SavedModel and server on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
TensorFlow is what it needs, and no JAX.
"""

from pathlib import Path

import tensorflow as tf

from export import golden
from export.version_folder import sha256
from vit22b import signature, version_window
from vit22b.signature import Manifest


class WindowError(Exception):
    """The TensorFlow here cannot run the version."""


def load(folder: Path) -> tuple[golden.Signatures, Manifest, str]:
    """Loads a version in this process: its signatures, and the manifest and the tokenizer.json that it describes.

    Raises:
        ValueError: it is no version that vit22b exported.
        WindowError: its programs are newer than the TensorFlow here.
    """
    written = read_manifest(folder)
    require_savedmodel(folder, written)
    if problem := version_window.problem(version_window.read(folder).graph_def, written.versions):
        raise WindowError(f"{folder}: {problem}")
    signatures = tf.saved_model.load(str(folder)).signatures
    described = signatures[signature.DESCRIBE]()
    manifest = Manifest.from_json(described[signature.MANIFEST].numpy())
    return signatures, manifest, described[signature.TOKENIZER].numpy().decode()


def read_manifest(folder: Path) -> Manifest:
    """The manifest beside a version's graph.

    Raises:
        ValueError: there is none, or it is of a version that is no SavedModel.
    """
    path = folder / signature.MANIFEST_FILE
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name an exported version, <repository>/<model>/<n>")
    if not path.is_file():
        versions = sorted((int(child.name) for child in folder.iterdir() if child.name.isdecimal()), reverse=True)
        if versions:
            raise ValueError(
                f"{folder} is the folder of a model; name a version of it, such as {folder / str(versions[0])}"
            )
        raise ValueError(f"{path} is missing: vit22b did not export this version, or a copy left it out")
    try:
        manifest = Manifest.from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}; copy the version again") from error
    if manifest.format == "savedmodel" and not (folder / "saved_model.pb").is_file():
        raise ValueError(f"{folder} is no SavedModel version: it has no saved_model.pb; copy it again")
    return manifest


def require_savedmodel(folder: Path, manifest: Manifest) -> None:
    """Raises ValueError for a version of another format, which no TensorFlow runs."""
    if manifest.format != "savedmodel":
        raise ValueError(f"{folder} has the format {manifest.format}, which no TensorFlow runs; see docs/stablehlo.md")


def check_hashes(folder: Path, manifest: Manifest) -> None:
    """Compares the files of a version with the hashes in its manifest.

    Raises:
        ValueError: a file is missing or changed.
    """
    for name, expected in manifest.hashes.items():
        file = folder / name
        if name != signature.TOKENIZER and not (file.is_file() and sha256(file) == expected):
            raise ValueError(f"{file} is {'changed' if file.exists() else 'missing'} since the export; copy it again")
