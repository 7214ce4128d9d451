"""What every source of training images looks like: a length, and an example by its number.

First step of the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Random
access is all that the input asks for: the order of a run is then a function of (seed, step), and no iterator is stored.
"""

import dataclasses
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

LABELS_FILE = "labels.txt"


@dataclasses.dataclass(frozen=True)
class Example:
    """One image as it is stored.

    Attributes:
        name: what a person finds it by; unique in its source.
        image_bytes: the whole file, JPEG, PNG, WebP, GIF or BMP, not decoded.
        labels: names of its classes, each one of the source's.
        caption: a text that describes it, or None.
    """

    name: str
    image_bytes: bytes
    labels: tuple[str, ...] = ()
    caption: str | None = None


class Source(Protocol):
    """Examples by number; several threads read one source at the same time.

    Attributes:
        labels: the names of all its classes; empty where it has none.
        where_labels: what gives labels to an image in a source of this kind, for a message.
    """

    labels: tuple[str, ...]
    where_labels: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """An example.

        Raises:
            ValueError, OSError: this one cannot be read; the others may be well.
        """
        ...

    def name(self, index: int) -> str:
        """The example's name; reads nothing."""
        ...


def matching_files(pattern: str) -> list[Path]:
    """The files that a pattern names, sorted.

    Raises:
        ValueError: there is none.
    """
    # Path.glob takes no absolute pattern.
    paths = sorted(Path(path) for path in glob.glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207
    if not paths:
        raise ValueError(f"no file matches {pattern!r}; expected a path, or a pattern such as shards/*.tar, in quotes")
    return paths


def read_labels_files(paths: Sequence[Path]) -> tuple[str, ...] | None:
    """The names in the labels.txt beside some files, where line n, from 0, names class n; None if there is none.

    Raises:
        ValueError: a name is empty, or comes twice; or the files lie in several folders, which differ in it.
    """
    first, *others = dict.fromkeys(path.parent for path in paths)
    names = _read_labels_file(first)
    for other in others:
        if _read_labels_file(other) != names:
            raise ValueError(
                f"{first / LABELS_FILE} and {other / LABELS_FILE} are not alike, or one is missing; put the same into "
                "both folders, or give each as a source of its own"
            )
    return names


def _read_labels_file(folder: Path) -> tuple[str, ...] | None:
    path = folder / LABELS_FILE
    if not path.is_file():
        return None
    names = path.read_text(encoding="utf-8").splitlines()
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"{path} has an empty line or a name that comes twice; expected the name of one class a line")
    return tuple(names)


class Classes:
    """The classes of a source, for records that give theirs by name or by number."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """Takes the names of all classes, in the order of their numbers."""
        self.names = names
        self._known = frozenset(names)

    def name(self, label: str | int) -> str:
        """The name of a class.

        Args:
            label: its name, or its number from 0; a text that is no name but digits is a number.

        Raises:
            ValueError: there is no such class.
        """
        if label in self._known:
            return str(label)
        number = int(label) if isinstance(label, int) or label.isdecimal() else -1
        if not 0 <= number < len(self.names):
            raise ValueError(f"its label {label!r} is none of the {len(self.names)} classes, by name or by number")
        return self.names[number]
