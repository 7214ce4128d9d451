"""The kinds of input of a bulk job: how each is told by the names of its files, and who reads it.

First step of clients/bulk_embed.py, and second, beside the walk SavedModel -> server -> client. A further kind is an
entry here, with its name in clients.bulk.job.Kind.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterator

from clients.bulk import listing, tables, tars, tfrecord
from clients.bulk.items import Item, Span
from clients.bulk.job import Kind, Settings
from vit22b.folder import IMAGE_SUFFIXES


@dataclasses.dataclass(frozen=True)
class Form:
    """The form of a kind.

    Attributes:
        names: patterns of its files' names, in small letters.
        items: reads a span of a file; of images a span of their listing.
        columns: the names of a file's columns, and whether each can be an image; a file that tells none, since it is
            empty, has None. None for a kind without columns.
        usual: names that the image's column usually has; the first that is there counts.
        count: how many items a file has; None where only reading it tells.
    """

    names: tuple[str, ...]
    items: Callable[[str, Span, Settings], Iterator[Item]]
    columns: Callable[[str], dict[str, bool] | None] | None = None
    usual: tuple[str, ...] = ()
    count: Callable[[str], int] | None = None


FORMS: dict[Kind, Form] = {
    "images": Form(tuple(f"*{suffix}" for suffix in sorted(IMAGE_SUFFIXES)), listing.items),
    "parquet": Form(
        ("*.parquet",),
        tables.items,
        tables.columns,
        ("image", "image_bytes", "bytes", "uri", "url", "path", "file_name"),
        tables.count,
    ),
    "webdataset": Form(("*.tar", "*.tar.gz", "*.tgz"), tars.items),
    "tfrecord": Form(("*.tfrec*",), tfrecord.items, tfrecord.columns, ("image/encoded", "image", "image_bytes")),
}


def kind_of(path: str) -> Kind | None:
    """What a file is, by its name; None for one that says nothing."""
    name = path.rpartition("/")[2].lower()
    found = (kind for kind, form in FORMS.items() if any(fnmatch.fnmatchcase(name, part) for part in form.names))
    return next(found, None)
