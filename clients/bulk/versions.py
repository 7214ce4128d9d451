"""Which version of a model a bulk job is of: decided once, where it is submitted, and kept by every later run.

First step of clients/bulk_embed.py, beside the walk SavedModel -> server -> client.
"""

import dataclasses

from apache_beam.io.filesystems import FileSystems

from clients.arguments import Server
from clients.bulk import storage
from clients.bulk.job import BulkError, Settings
from vit22b import signature
from vit22b.errors import NotServedError
from vit22b.signature import Manifest

_MANIFEST = signature.MANIFEST_FILE.split("/")


def remedy(settings: Settings) -> str:
    """How a job goes on whose model is not there any more."""
    return (
        f"what is done stays: serve version {settings.version} of {settings.model} (space {settings.space_id}) again "
        "and repeat the command, or begin anew with another --output"
    )


def served_version(server: Server, held: Settings | None) -> tuple[int, Manifest]:
    """The version to ask a server for: the one given, or the one of the job that is held, or the latest.

    Args:
        server: where it is.
        held: settings of a job that was begun, if one was.

    Raises:
        BulkError: the version of the job is not served any more.
        VitError: no answer.
    """
    pinned = held.version if held and server.version is None else server.version
    with dataclasses.replace(server, version=pinned).client() as client:
        try:
            found = client.describe()
        except NotServedError as error:
            if held is None or held.version != pinned:
                raise
            raise BulkError(f"{_now(server)}; {remedy(held)}") from error
    return found.version, found.manifest


def _now(server: Server) -> str:
    """What is served in the place of a version that has gone."""
    try:
        with dataclasses.replace(server, version=None).client() as client:
            found = client.describe()
    except NotServedError as error:
        return error.message
    return f"{server.address} serves version {found.version} (space {found.manifest.space_id})"


def version_folder(folder: str, version: int | None) -> tuple[str, int]:
    """The folder of a version, and its number.

    Args:
        folder: of a version, or of a model, whose versions are folders in it.
        version: which; the highest if not given.

    Raises:
        ValueError: neither is there.
    """
    folder = storage.absolute(folder)
    if FileSystems.exists(FileSystems.join(folder, *_MANIFEST)):
        found = FileSystems.split(folder)[1]
        number = int(found) if found.isdecimal() else 0
        if version not in (None, number):
            raise ValueError(f"{folder} is version {number}; expected {version}: give its folder, or the model's")
        return folder, number
    manifests = storage.match(FileSystems.join(folder, "*", *_MANIFEST))
    names = [file.path[len(folder) + 1 :].partition("/")[0] for file in manifests]
    versions = sorted(int(name) for name in names if name.isdecimal())
    if not versions or version not in (None, *versions):
        held = f"the versions {', '.join(map(str, versions))}" if versions else "no version"
        raise ValueError(f"{folder} holds {held} of an exported model; expected {version or 'one'}")
    number = versions[-1] if version is None else version
    return FileSystems.join(folder, str(number)), number


def model_name(folder: str) -> str:
    """The name that the version in a folder is served under, where it lies as servers expect it: that of the model."""
    return FileSystems.split(FileSystems.split(folder)[0])[1]


def exported_manifest(folder: str) -> Manifest:
    """What an exported version says of itself.

    Raises:
        OSError, ValueError: it does not.
    """
    return Manifest.from_json(storage.read(FileSystems.join(folder, *_MANIFEST)))
