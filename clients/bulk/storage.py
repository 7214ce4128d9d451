"""Files of a bulk job, on whatever Beam can reach: a disk, gs://, s3://, hdfs://.

Under every step of clients/bulk_embed.py, beside the walk SavedModel -> server -> client. A file is there as a whole or
not at all, so a reader, and the next run after a kill, trusts what it finds.
"""

import os
import uuid

from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

# Their writes appear when they are closed, and a rename there is a copy. Everywhere else a write can be seen half done.
_ATOMIC = frozenset({"azfs", "gs", "s3"})
_PARTIAL = "partial"
_RAW = CompressionTypes.UNCOMPRESSED


def absolute(path: str) -> str:
    """A path that means the same in every process: with a scheme, or from the root."""
    # Not Path, which makes one slash of the two in gs://; not resolve(), which would rename what a link points to.
    return path.rstrip("/") if FileSystems.get_scheme(path) else os.path.abspath(path)  # noqa: PTH100


def read(path: str) -> bytes:
    """The content of a file.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: no file can have such a name, or Beam has no module for its scheme.
    """
    try:
        with FileSystems.open(path, compression_type=_RAW) as file:
            content: bytes = file.read()
    except AssertionError as error:  # so Beam says that boto3 is missing
        raise ValueError(f"{path}: {error}; install apache-beam[aws]") from error
    return content


def write_whole(folder: str, name: str, content: bytes) -> None:
    """Writes `folder`/`name`, folders of it included; of two writers at once the last one stands.

    Args:
        folder: the job's output; partial files lie in a folder of it until they are whole.
        name: below the folder, with forward slashes.
        content: of the file.

    Raises:
        OSError: it cannot be written.
    """
    target = FileSystems.join(folder, *name.split("/"))
    if FileSystems.get_scheme(target) in _ATOMIC:
        _write(target, content)
        return
    partial = FileSystems.join(folder, _PARTIAL, f"{uuid.uuid4().hex}-{name.rpartition('/')[2]}")
    _write(partial, content)
    parent = FileSystems.split(target)[0]
    if not FileSystems.exists(parent):
        _make(parent)
    if FileSystems.get_scheme(target) and FileSystems.exists(target):
        FileSystems.delete([target])  # a worker was lost before its receipt; hdfs:// renames onto no file that is there
    FileSystems.rename([partial], [target])


def clear_partial(folder: str) -> None:
    """Removes what killed runs have left half written; to be called when the job is done."""
    partial = FileSystems.join(folder, _PARTIAL)
    if FileSystems.exists(partial):
        FileSystems.delete([partial])


def match(pattern: str) -> list[FileMetadata]:
    """The files that a pattern names, sorted by path: `*` within a folder, `**` across folders, `?` and `[...]`."""
    (found,) = FileSystems.match([pattern])
    return sorted(found.metadata_list, key=lambda file: file.path)


def below(folder: str) -> str:
    """The pattern of all files below a folder."""
    return FileSystems.join(folder, "**")


def _write(path: str, content: bytes) -> None:
    with FileSystems.create(path, compression_type=_RAW) as file:
        file.write(content)


def _make(folder: str) -> None:
    try:
        FileSystems.mkdirs(folder)
    except OSError:
        # Another worker has made it in the meantime.
        if not FileSystems.exists(folder):
            raise
