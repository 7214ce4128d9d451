"""The samples of a tar as webdataset groups them: files with the same name but for the suffix, in order.

Under clients/bulk_items.py, beside the walk SavedModel -> server -> client.
"""

import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from webdataset.tariterators import group_by_keys

from vit22b.folder import IMAGE_SUFFIXES

IMAGES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
# What readers say of a file that is damaged, as opposed to one that cannot be reached.
DAMAGE = (tarfile.TarError, ValueError, EOFError, zlib.error)

_META = re.compile(r"__[^/]*__($|/)")  # names that webdataset keeps to itself


def samples(file: BinaryIO, path: str) -> Iterator[dict[str, Any]]:
    """What is in a tar, compressed or not, sample by sample.

    Each has its key as `__key__`, and by suffix the content of its files: None for a link, whose content lies elsewhere
    in the tar and is out of reach for one who reads from front to back.

    Raises:
        tarfile.TarError, ValueError, EOFError, zlib.error: it is damaged; the samples before that have been given.
        OSError: it cannot be read.
    """
    damage: list[Exception] = []
    for sample in group_by_keys(_up_to_damage(_members(file, path), damage)):
        # Of a sample that the damage has cut off the image may be whole.
        if not damage or IMAGES & sample.keys():
            yield sample
    if damage:
        raise damage[0]


def _members(file: BinaryIO, path: str) -> Iterator[dict[str, Any]]:
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        for member in tar:
            link = member.islnk() or member.issym()
            content = None if link else tar.extractfile(member)
            if (link or content is not None) and not _META.match(member.name):
                yield {"fname": member.name, "data": content.read() if content else None, "__url__": path}
            tar.members = []  # it would keep them all
        # tarfile takes the end of the file, and a broken header, for the end of the tar, which is a block of zeros.
        if tar.fileobj.tell() - tar.offset < tarfile.BLOCKSIZE or any(tar.fileobj.read(tarfile.RECORDSIZE)):
            raise tarfile.ReadError("it has no end")


def _up_to_damage(members: Iterator[dict[str, Any]], damage: list[Exception]) -> Iterator[dict[str, Any]]:
    try:
        yield from members
    except DAMAGE as error:
        # Raised here it would take the sample with it that group_by_keys has begun.
        damage.append(error)
