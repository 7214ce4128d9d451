"""What a bulk job reads: patterns become files, and files become sources.

First step of clients/bulk_embed.py, beside the walk SavedModel -> server -> client. Runs once, where the job is
submitted. The order is fixed here: the patterns' order, and of each the files sorted by path.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from apache_beam.io.filesystem import FileMetadata
from webdataset.shardlists import expand_urls

from clients.bulk import storage
from clients.bulk.job import Kind, Source
from clients.bulk.kinds import FORMS, kind_of

_FOOTERS = 16  # Parquet footers that are read at once


def find_files(patterns: Sequence[str], kind: Kind | None) -> tuple[Kind, list[FileMetadata]]:
    """The files that the patterns name, and what they are by their names, unless `kind` says it.

    Args:
        patterns: files, folders, or patterns with `*`, `**`, `?`, `[...]` and, as webdataset has them, braces.
        kind: None to go by the names.

    Raises:
        ValueError: a pattern names nothing, or files of several kinds.
    """
    files: dict[str, FileMetadata] = {}
    for pattern in patterns:
        for part in expand_urls(pattern) if "{" in pattern else [pattern]:
            found = _matches(storage.absolute(part), kind)
            if not found:
                expected = "files, a folder of images, or a pattern such as 'FOLDER/*.tar'"
                raise ValueError(f"{part} names no {kind or 'image'} file; give {expected}")
            files.update((file.path, file) for file in found)
    if not files:
        raise ValueError("no input is given; name files or a folder by --input")
    kinds = {kind or kind_of(path): path for path in files}
    if None in kinds:
        raise ValueError(f"the name of {kinds[None]} does not say what it is; say it by --kind")
    if len(kinds) > 1:
        raise ValueError(f"the input has files of several kinds, {', '.join(sorted(kinds))}; give files of one")
    return next(iter(kinds)), list(files.values())


def sources(files: Sequence[FileMetadata], kind: Kind) -> tuple[Source, ...]:
    """The files as sources, with their numbers of items where their kind tells: of Parquet the footers are read.

    Raises:
        ValueError: a file is named as one of the kind and is none.
    """
    count = FORMS[kind].count
    counts: list[int | None] = [None] * len(files)
    if count is not None:
        with ThreadPoolExecutor(_FOOTERS) as pool:
            counts = list(pool.map(count, [file.path for file in files]))
    return tuple(
        Source(number, file.path, file.size_in_bytes, file.last_updated_in_seconds, rows)
        for number, (file, rows) in enumerate(zip(files, counts, strict=True))
    )


def _matches(pattern: str, kind: Kind | None) -> list[FileMetadata]:
    """The files of a pattern; where it is a folder, those of the kind, by default images, that lie below it."""
    inside = [] if set("*?[") & set(pattern) else storage.match(storage.below(pattern))
    if not inside:
        return storage.match(pattern)
    return [file for file in inside if kind_of(file.path) == (kind or "images") and not _hidden(file.path, pattern)]


def _hidden(path: str, folder: str) -> bool:
    return any(part.startswith(".") for part in path[len(folder) + 1 :].split("/"))
