"""WebDataset tars as a source: their samples by number, through an index that is built once.

First step of the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. What files
of a tar belong together is webdataset's own rule (neighbours with one name up to the first dot); of a sample are used

| file | what it is |
|---|---|
| jpg, jpeg, png, webp, gif or bmp | the image; exactly one |
| cls (optional) | its class, by name or by number |
| json (optional) | an object; its `labels`, a list, and `caption` as in metadata.jsonl |
| txt (optional) | the caption, UTF-8 |

A `labels.txt` beside the tars names the classes, one a line, and turns numbers into names; without it the classes are
those that occur, sorted. webdataset itself reads front to back, so the index is ours: where each file lies, kept beside
the tars as `.vit22b-<hash>.npz` (in ~/.cache/vit22b where that folder cannot be written, or the file there not read).
Other tars, sizes or times make another.
"""

import contextlib
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys
from webdataset.writer import TarWriter

from train.sources.example import Classes, Example, matching_files, read_labels_files
from vit22b.folder import IMAGE_SUFFIXES
from vit22b.whole_file import write_whole

_PARTS = ("image", "cls", "json", "txt")
_IMAGES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
_META = re.compile(r"__[^/]*__($|/)")  # names that webdataset keeps to itself
_FORMAT = 1

Index = dict[str, npt.NDArray[Any]]


def tar_files(pattern: str) -> list[Path]:
    """The tars that a pattern names, where braces count as webdataset has them: shards-{000..127}.tar.

    Raises:
        ValueError: there is none, or one of those between braces is missing.
    """
    return [path for part in expand_urls(pattern) for path in matching_files(part)]


class TarSource:
    """The samples of some tars, one tar after the other."""

    where_labels = 'a cls file in each sample, or a json with "labels"'

    def __init__(self, paths: Sequence[Path]) -> None:
        """Reads the index of these tars, and makes it where there is none: a pass over their headers.

        Raises:
            ValueError: a tar is compressed or damaged, or a sample in it has no image; the message names it.
        """
        self._paths = list(paths)
        index = _index(self._paths)
        self._keys, self._tar, self._spans = index["keys"], index["tar"], index["spans"]
        if not len(self):
            raise ValueError(f"{paths[0]}{' and the others' if paths[1:] else ''}: there are no samples in it")
        self._classes = Classes(read_labels_files(paths) or tuple(index["labels"].tolist()))
        self.labels = self._classes.names

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Example:
        path = self._paths[self._tar[index]]
        spans = zip(_PARTS, self._spans[index].tolist(), strict=True)
        try:
            with path.open("rb", buffering=0) as file:
                parts = {part: _read(file.fileno(), *span) for part, span in spans}
            given, caption = _meaning(parts)
            labels = tuple(self._classes.name(label) for label in given)
        except ValueError as error:
            raise ValueError(f"{self.name(index)}: {error}") from error
        return Example(self.name(index), parts["image"], labels, caption)

    def name(self, index: int) -> str:
        """The tar's path and the sample's key."""
        return f"{self._paths[self._tar[index]]}/{self._keys[index].decode()}"


def write_tar(path: Path, examples: Iterable[Example]) -> None:
    """Writes a tar as TarSource reads it, keys counting from 0, labels and caption in the json."""
    with TarWriter(str(path)) as tar:
        for number, example in enumerate(examples):
            # Decoding goes by a file's first bytes, so the suffix says only that it is an image.
            suffix = Path(example.name).suffix.lower()[1:]
            fields = {"labels": list(example.labels)} | ({"caption": example.caption} if example.caption else {})
            tar.write(
                {
                    "__key__": f"{number:08}",
                    suffix if suffix in _IMAGES else "jpg": example.image_bytes,
                    "json": json.dumps(fields).encode(),
                }
            )


def _read(file: int, offset: int, size: int) -> bytes:
    data = os.pread(file, size, offset)
    if len(data) < size:
        raise ValueError(f"the tar ends {size - len(data)} bytes before its file does")
    return data


def _meaning(parts: dict[str, bytes]) -> tuple[list[str], str | None]:
    """Labels and caption of a sample, from its files beside the image."""
    labels = [parts["cls"].decode().strip()] if parts["cls"] else []
    caption = parts["txt"].decode().strip() if parts["txt"] else None
    if parts["json"]:
        fields = json.loads(parts["json"])
        if not isinstance(fields, dict) or not isinstance(fields.get("labels", []), list):
            raise ValueError('its json is no object with a list of "labels"')
        labels += [str(label) for label in fields.get("labels", [])]
        caption = caption or fields.get("caption")
    return labels, caption


def _index(paths: Sequence[Path]) -> Index:
    """The index of some tars, from its file if there is one."""
    stats = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    name = f".vit22b-{hashlib.sha256(repr((_FORMAT, stats)).encode()).hexdigest()[:16]}.npz"
    beside, cache = paths[0].parent, Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vit22b"
    for folder in (beside, cache):
        with contextlib.suppress(OSError), np.load(folder / name) as stored:
            return dict(stored)
    built = _build(paths)
    # One that is there all the same is somebody else's, which this user may not read.
    _store(built, beside / name if os.access(beside, os.W_OK) and not (beside / name).exists() else cache / name)
    return built


def _store(index: Index, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several hosts may build it at the same time: each writes its own, and the last rename stands.
    write_whole(path, lambda file: np.savez(file, **index))


def _build(paths: Sequence[Path]) -> Index:
    keys, tars, spans, labels = [], [], [], set()
    for number, path in enumerate(paths):
        try:
            for key, places, given in _samples(path):
                keys.append(key.encode())
                tars.append(number)
                spans.append(places)
                labels.update(given)
        except (tarfile.TarError, ValueError) as error:
            raise ValueError(f"{path}: {error.args[0]}; expected an uncompressed WebDataset tar") from error
    return {
        "keys": np.array(keys, np.bytes_),
        "tar": np.array(tars, np.int32),
        "spans": np.array(spans, np.int64).reshape(-1, len(_PARTS), 2),
        "labels": np.array(sorted(labels), np.str_),
    }


def _samples(path: Path) -> Iterator[tuple[str, list[tuple[int, int]], list[str]]]:
    """Key, (offset, size) of each of _PARTS, and labels of the samples of a tar, in its order."""
    with tarfile.open(path, "r:") as tar:
        members = (
            {"fname": member.name, "data": (member.offset_data, member.size), "__url__": str(path)}
            for member in tar
            if member.isreg() and not _META.match(member.name)
        )
        for sample in group_by_keys(members):
            key, images = sample["__key__"], sorted(_IMAGES & set(sample))
            if len(images) != 1:
                files = sorted(name for name in sample if not name.startswith("__"))
                raise ValueError(
                    f"the sample {key!r} has the files {files}, {len(images)} images; expected exactly one"
                )
            places = [sample[images[0]], *(sample.get(part, (0, 0)) for part in _PARTS[1:])]
            with path.open("rb", buffering=0) as file:
                texts = [_read(file.fileno(), *place) for place in places[1:]]
            labels, _ = _meaning({"image": b"", **dict(zip(_PARTS[1:], texts, strict=True))})
            yield key, places, labels
