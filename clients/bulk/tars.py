"""Tars as webdataset writes them: files with the same name but for the suffix are a sample, in order.

One of the inputs of clients/bulk_embed.py, beside the walk SavedModel -> server -> client.
"""

import dataclasses
import itertools
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from webdataset.tariterators import base_plus_ext

from clients.bulk.items import DAMAGE, Item, Span, items_of
from clients.bulk.job import Settings
from vit22b.folder import IMAGE_SUFFIXES

_IMAGES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
_META = re.compile(r"__[^/]*__($|/)")  # names that webdataset keeps to itself


@dataclasses.dataclass(frozen=True)
class Sample:
    """Files of a tar that belong together.

    Attributes:
        key: what their names have in common.
        files: suffix and content of each. The content is None for a link, whose content lies elsewhere in the tar and
            is out of reach for one who reads from front to back.
    """

    key: str
    files: list[tuple[str, bytes | None]]

    @property
    def images(self) -> list[tuple[str, bytes | None]]:
        """Those of the files that are images."""
        return [(suffix, content) for suffix, content in self.files if suffix in _IMAGES]


def items(path: str, span: Span, settings: Settings) -> Iterator[Item]:
    """The samples of a tar, compressed or not, that a span has, by their one image.

    Raises:
        OSError: it cannot be read.
    """
    del settings

    def item(index: int, sample: Sample) -> Item:
        return _item(Item(index, f"{path}/{sample.key}"), sample)

    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        yield from itertools.islice(items_of(_samples(file), item, f"{path}, from sample"), *span)


def _item(found: Item, sample: Sample) -> Item:
    if len(sample.images) != 1:
        held = ", ".join(sorted(suffix for suffix, _ in sample.files))
        return found.without(f"the sample has {len(sample.images)} images; expected one, it has {held}")
    ((suffix, content),) = sample.images
    if content is None:
        return found.without(f"its {suffix} is a link to another file; expected the image itself")
    return dataclasses.replace(found, image=content)


def _samples(file: BinaryIO) -> Iterator[Sample]:
    # Not by webdataset's group_by_keys, which ends the tar at a name that comes twice.
    sample: Sample | None = None
    try:
        for name, content in _members(file):
            key, suffix = base_plus_ext(name)
            if key is None:
                continue
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = Sample(key, [])
            sample.files.append((suffix.lower(), content))
    except DAMAGE:
        # Of a sample that the damage has cut off the image may be whole.
        if sample is not None and sample.images:
            yield sample
        raise
    if sample is not None:
        yield sample


def _members(file: BinaryIO) -> Iterator[tuple[str, bytes | None]]:
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        for member in tar:
            link = member.islnk() or member.issym()
            content = None if link else tar.extractfile(member)
            if (link or content is not None) and not _META.match(member.name):
                yield member.name, content.read() if content else None
            tar.members = []  # it would keep them all
        # tarfile takes the end of the file, and a broken header, for the end of the tar, which is a block of zeros.
        if tar.fileobj.tell() - tar.offset < tarfile.BLOCKSIZE or any(tar.fileobj.read(tarfile.RECORDSIZE)):
            raise tarfile.ReadError("it has no end")
