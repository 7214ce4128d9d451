"""Label sets: lists of classes that are kept under a name, with their vectors, in a directory of files.

Beside the way SavedModel -> server -> [gateway] -> application. A set survives restarts, and gateways may share the
directory:

    animals/classes.json                         the classes and templates, and when they were given
    animals/3fa1c0de00112233-9f86d081884c.npy    float32 [k, D]: space_id, and a digest of classes and templates

So vectors never belong to other classes or to another space than their file's name says. All files are written whole.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import re
import shutil
import uuid
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from vit22b.whole_file import write_whole

Vectors = npt.NDArray[np.float32]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DEFINITION = "classes.json"
_SPACE = re.compile(r"[A-Za-z0-9_-]{1,128}")

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """Classes to score images against.

    Attributes:
        classes: k names, as they were given.
        templates: texts with one `{}` each; a class's vector is the mean over its prompts.
        name: that it is kept under; empty for one that came with a request.
        created: seconds since 1970.
    """

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    name: str = ""
    created: int = 0

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that name the classes and templates."""
        return hashlib.sha256(json.dumps([self.classes, self.templates]).encode()).hexdigest()

    @property
    def digest(self) -> str:
        """The first 12 digits of the fingerprint, which are enough among the files of one set."""
        return self.fingerprint[:12]

    def to_json(self) -> bytes:
        """The file that it is kept in."""
        return json.dumps(dataclasses.asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, text: bytes, name: str) -> Self:
        """Reads it; the name is that of its folder, which may be a copy of another.

        Raises:
            ValueError: what was read is no label set.
        """
        try:
            values = json.loads(text)
            classes, templates = tuple(values["classes"]), tuple(values["templates"])
            return cls(classes, templates, name, int(values["created"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is no label set: {error!r}") from error


class LabelSets:
    """The label sets of a directory. Its methods read and write files: call them in a thread."""

    def __init__(self, directory: Path):
        """Makes the directory where there is none.

        Raises:
            OSError: it cannot be made.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def names(self) -> list[str]:
        """The names, sorted."""
        found = (path.parent.name for path in self._directory.glob(f"*/{_DEFINITION}"))
        return sorted(name for name in found if NAME.fullmatch(name))

    def get(self, name: str) -> LabelSet | None:
        """A set, or None.

        Raises:
            ValueError: its file is damaged, or cannot be read.
        """
        try:
            text = self._file(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ValueError(f"the file of the label set {name} cannot be read: {reason}; delete the set") from error
        try:
            return LabelSet.from_json(text, name)
        except ValueError as error:
            raise ValueError(f"the file of the label set {name} is damaged ({error}); put the set again") from error

    def put(self, labels: LabelSet, space_id: str, vectors: Vectors) -> bool:
        """Keeps a set in the place of the one of its name, with vectors float32 [k, D]; whether the name is new."""
        new = not self._file(labels.name).exists()
        try:
            self._put(labels, space_id, vectors)
        except FileNotFoundError:  # its folder was deleted in the middle
            self._put(labels, space_id, vectors)
        return new

    def _put(self, labels: LabelSet, space_id: str, vectors: Vectors) -> None:
        self._file(labels.name).parent.mkdir(exist_ok=True)
        self._write_vectors(labels, space_id, vectors)
        # After the vectors: whoever reads the classes finds their vectors.
        write_whole(self._file(labels.name), lambda file: file.write(labels.to_json()))
        for path in self._file(labels.name).parent.glob("*.npy"):
            if not path.stem.endswith(f"-{labels.digest}"):
                path.unlink(missing_ok=True)

    def delete(self, name: str) -> bool:
        """Removes a set; whether there was one."""
        folder = self._file(name).parent
        if not self._file(name).exists():
            return False
        # Out of the way at once: what is put under the name from here on lies in a new folder.
        hidden = folder.with_name(f".{uuid.uuid4().hex}")
        try:
            folder.rename(hidden)
        except FileNotFoundError:
            return False
        shutil.rmtree(hidden, ignore_errors=True)
        return True

    def keep(self, labels: LabelSet, space_id: str, vectors: Vectors) -> None:
        """Writes the vectors of a set in one more space; no effect where the set was deleted meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            self._write_vectors(labels, space_id, vectors)

    def _write_vectors(self, labels: LabelSet, space_id: str, vectors: Vectors) -> None:
        write_whole(self._vectors(labels, space_id), lambda file: np.save(file, vectors, allow_pickle=False))

    def vectors(self, labels: LabelSet, space_id: str) -> Vectors | None:
        """The vectors of a set in one space, float32 [k, D]; None where there are none, or their file is damaged."""
        path = self._vectors(labels, space_id)
        try:
            found = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            logger.warning("%s is damaged, its classes are embedded again: %s", path, error)
            return None
        if found.dtype != np.float32 or found.ndim != 2 or len(found) != len(labels.classes):
            logger.warning("%s holds %s %s, its classes are embedded again", path, found.dtype, found.shape)
            return None
        return found

    def spaces(self, labels: LabelSet) -> list[str]:
        """The spaces that there are vectors of a set in, sorted."""
        end = f"-{labels.digest}"
        paths = self._file(labels.name).parent.glob(f"*{end}.npy")
        return sorted(path.stem.removesuffix(end) for path in paths)

    def _file(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a label set; expected letters, digits and any of _ . -")
        return self._directory / name / _DEFINITION

    def _vectors(self, labels: LabelSet, space_id: str) -> Path:
        if not _SPACE.fullmatch(space_id):
            raise ValueError(f"{space_id!r} is no space_id that a file can be named by")
        return self._file(labels.name).with_name(f"{space_id}-{labels.digest}.npy")
