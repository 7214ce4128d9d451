"""Vectors of class lists, kept on disk: a list that was embedded once need not be embedded again.

Beside clients/zero_shot.py at the end of the walk. An entry is found by what its vectors depend on, the space, the
classes and the templates, and is checked when it is read: one that is damaged counts as none, and is written again.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vit22b.embeddings import ClassVectors
from vit22b.whole_file import write_whole

_FORMAT = 1
_DIGEST = hashlib.sha256().digest_size  # an entry begins with that of all that follows


def default_folder() -> Path | None:
    """Where caches are kept, by the XDG Base Directory Specification; None for who has no home."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = os.environ.get("HOME", "")
    # The specification has a path that is relative ignored.
    folder = Path(named) if named.startswith("/") else Path(home, ".cache") if home else None
    return folder and folder / "vit22b" / "classes"


class ClassCache:
    """A folder with a file for each list."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder, which need not be there yet."""
        self._folder = folder

    def find(self, space_id: str, classes: Sequence[str], templates: Sequence[str]) -> ClassVectors | None:
        """The vectors of a list, or None where they are not there, or not whole.

        Args:
            space_id: that the vectors have to lie in.
            classes: names, in order.
            templates: texts with one `{}` each.
        """
        key = _key(space_id, classes, templates)
        try:
            written = self._path(key).read_bytes()
        except OSError:
            return None
        digest, content = written[:_DIGEST], written[_DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            return None
        head, _, numbers = content.partition(b"\n")
        fields = json.loads(head)
        if fields["key"] != key:
            return None
        vectors = np.frombuffer(numbers, "<f4").reshape(len(classes), -1)
        return ClassVectors(tuple(classes), tuple(templates), vectors, space_id, fields["version"])

    def keep(self, found: ClassVectors) -> None:
        """Writes an entry, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        key = _key(found.space_id, found.classes, found.templates)
        head = json.dumps({"key": key, "version": found.version}).encode()
        content = head + b"\n" + found.vectors.astype("<f4").tobytes()
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._path(key), lambda file: file.write(hashlib.sha256(content).digest() + content))

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def _key(space_id: str, classes: Sequence[str], templates: Sequence[str]) -> str:
    return json.dumps([_FORMAT, space_id, list(classes), list(templates)])
