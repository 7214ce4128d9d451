"""Sets in the making: parts that are written image by image, and a set that is there as a whole or not at all.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from train.evaluation_sets.reading import EvaluationSet, write_set
from vit22b.folder import METADATA_FILE
from vit22b.whole_file import write_whole


class PartWriter:
    """Writes a part of a set; a context manager, which writes metadata.jsonl when it is left without an error."""

    def __init__(self, folder: Path) -> None:
        """Takes the part's folder, which is made."""
        self.folder = folder
        self._lines: list[str] = []
        folder.mkdir(parents=True)

    def add(
        self, name: str, image: Image.Image, labels: Sequence[str], caption: str | None = None, **fields: Any
    ) -> None:
        """Writes an image as PNG, and its line.

        Args:
            name: of the file below the part, with .png.
            image: its pixels.
            labels, caption: as vit22b/folder.py has them.
            fields: the further fields of the line (see reading.py).
        """
        self.save(name, image)
        values: dict[str, Any] = {"file_name": name, "labels": list(labels)}
        if caption is not None:
            values["caption"] = caption
        self._lines.append(json.dumps({**values, **fields}, ensure_ascii=False) + "\n")

    def save(self, name: str, image: Image.Image) -> str:
        """Writes an image that a further field names, such as a mask; returns the name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, "PNG", compress_level=3)
        return name

    def save_array(self, name: str, values: npt.NDArray[Any]) -> str:
        """Writes an array that a further field names, such as a depth map; returns the name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values, allow_pickle=False)
        return name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if error is None:
            data = "".join(self._lines).encode()
            write_whole(self.folder / METADATA_FILE, lambda file: file.write(data))


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder`, which takes its place, and that of what was there, if nothing fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    replaced = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.replaced")
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def finish(described: EvaluationSet) -> None:
    """Writes set.json, once every part that the set's kind asks for is there.

    Raises:
        AssertionError: a maker has left one out.
    """
    parts = ["test", *(shift.part for shift in described.shifts)]
    parts += [] if described.kind == "cues" else ["train"]
    for part in parts:
        assert (described.folder / part / METADATA_FILE).is_file(), f"{described.name} has no {part}"
    write_set(described)
