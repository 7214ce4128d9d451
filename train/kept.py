"""Arrays that are worth keeping from run to run: a tower's answers, a teacher's.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A file is named by the
hash of its key, which must say everything that decides the values, and is there as a whole or not at all.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from vit22b.whole_file import write_whole


class Kept:
    """Arrays in a folder by key."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder, which is made when something is kept."""
        self.folder = Path(folder)

    def array(self, key: str, make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """The array that is kept under a key, or else what `make` makes, which is kept from then on.

        A file that cannot be read, cut short by a full disk for instance, is made anew.

        Raises:
            OSError: the folder cannot be written to.
        """
        path = self._path(key)
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            made = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: np.save(file, made, allow_pickle=False))
        return made

    def rows(self, key: str, count: int, make: Callable[[], Iterable[npt.NDArray[Any]]]) -> npt.NDArray[Any]:
        """As `array`, of what need not fit into memory: written as it is made, and read from the disk as it is used.

        Args:
            key: see the class.
            count: how many rows there are in all.
            make: gives the rows, some at a time.

        Returns:
            An array that cannot be written to.

        Raises:
            OSError: the folder cannot be written to.
        """
        path = self._path(key)
        try:
            return _mapped(path)
        except (OSError, ValueError, EOFError):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: _write_rows(file, count, iter(make())))
        return _mapped(path)

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"


def _mapped(path: Path) -> npt.NDArray[Any]:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _write_rows(file: BinaryIO, count: int, parts: Iterator[npt.NDArray[Any]]) -> None:
    """A .npy file, whose beginning says how large the whole is."""
    first = next(parts)
    header = {"descr": first.dtype.str, "fortran_order": False, "shape": (count, *first.shape[1:])}
    np.lib.format.write_array_header_1_0(file, header)
    for part in itertools.chain((first,), parts):
        file.write(np.ascontiguousarray(part).data)
