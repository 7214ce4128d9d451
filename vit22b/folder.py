"""A folder of images on disk, with labels and captions where it has them.

The walk begins here: folder -> image bytes -> batch -> state -> checkpoint -> SavedModel -> server -> client. The
trainer, the evaluators and the client programs read the same folders by the same rules. Standard library only.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

from vit22b.whole_file import write_whole

METADATA_FILE = "metadata.jsonl"
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})


@dataclasses.dataclass(frozen=True)
class Record:
    """One image of a folder.

    Attributes:
        path: the file.
        name: the path below the folder with forward slashes, unique in it.
        labels: names of its classes; empty when the folder gives none.
        caption: a text that describes it, or None.
    """

    path: Path
    name: str
    labels: tuple[str, ...] = ()
    caption: str | None = None


@dataclasses.dataclass(frozen=True)
class Folder:
    """The images of a folder.

    Attributes:
        records: one for each image, sorted by name.
        labels: the distinct label names of all the records, sorted; a class's index is its place here.
    """

    records: tuple[Record, ...]
    labels: tuple[str, ...]


def read_folder(path: str | PathLike[str], *, mixed: bool = False) -> Folder:
    """Reads what a folder holds, without opening an image.

    There are three kinds of folder. One with a metadata.jsonl has one JSON object a line: `file_name`, a path below the
    folder, and optionally `labels`, a list of strings, and `caption`, a string; other fields are passed over. One
    without it has either a sub-folder for each class, named as the class, or images and nothing else. Hidden files and
    folders are passed over.

    Args:
        path: the folder.
        mixed: whether images may lie beside sub-folders; then all that lie below are taken, without labels.

    Raises:
        ValueError: the folder is missing, has no image or mixes two kinds, or its metadata is broken (the message has
            the line).
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"{root} is {'a file' if root.exists() else 'missing'}; expected a folder of images")
    metadata = root / METADATA_FILE
    records = sorted(
        _from_metadata(root, metadata) if metadata.is_file() else _from_tree(root, mixed),
        key=lambda record: record.name,
    )
    if not records:
        raise ValueError(f"{root} holds no image; expected files named {', '.join(sorted(IMAGE_SUFFIXES))}")
    return Folder(tuple(records), tuple(sorted({label for record in records for label in record.labels})))


def write_metadata(path: str | PathLike[str], records: Iterable[Record]) -> None:
    """Writes the metadata.jsonl of a folder, one line a record; read_folder reads the same records back.

    Args:
        path: the folder, which is there and already holds the images.
        records: `name` becomes `file_name`; `path` is not used.
    """
    lines = []
    for record in records:
        fields: dict[str, object] = {"file_name": record.name, "labels": list(record.labels)}
        if record.caption is not None:
            fields["caption"] = record.caption
        lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
    write_whole(Path(path) / METADATA_FILE, lambda file: file.write("".join(lines).encode()))


def _from_metadata(root: Path, metadata: Path) -> list[Record]:
    records: dict[str, Record] = {}
    with metadata.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = _from_line(root, line)
                if record.name in records:
                    raise ValueError(f"file_name {record.name!r} comes a second time")
            except ValueError as error:
                raise ValueError(f"{metadata}, line {number}: {error}") from error
            records[record.name] = record
    return list(records.values())


def _from_line(root: Path, line: str) -> Record:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("file_name"), str):
        raise ValueError('expected an object with a string "file_name", for instance {"file_name": "a.png"}')
    name, labels, caption = fields["file_name"], fields.get("labels", []), fields.get("caption")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f'"labels" is {labels!r}; expected a list of strings')
    if caption is not None and not isinstance(caption, str):
        raise ValueError(f'"caption" is {caption!r}; expected a string')
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"file_name {name!r} leads out of the folder; expected a path below {root}")
    if not (root / relative).is_file():
        raise ValueError(f"there is no file {name!r} in {root}")
    return Record(root / relative, relative.as_posix(), tuple(labels), caption)


def _from_tree(root: Path, mixed: bool) -> list[Record]:
    plain = [Record(file, file.name) for file in root.iterdir() if _is_image(file)]
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    inner = [folder.name for folder in folders if (folder / METADATA_FILE).is_file()]
    if inner:
        raise ValueError(
            f"{root} has no {METADATA_FILE}, but its sub-folders have: {', '.join(inner)}; name one of them"
        )
    classified = [
        Record(file, file.relative_to(root).as_posix(), (folder.name,))
        for folder in folders
        for file in _images(folder)
    ]
    if plain and classified and mixed:
        return [dataclasses.replace(record, labels=()) for record in plain + classified]
    if plain and classified:
        raise ValueError(
            f"{root} holds {plain[0].name} beside the sub-folder {classified[0].labels[0]}; "
            "expected either images alone or one sub-folder for each class"
        )
    return plain or classified


def _images(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if _is_image(file))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
