"""Arrays that are worth keeping from run to run: a tower's answers, a teacher's.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A file is named by the
hash of its key, which must say everything that decides the values, and is there as a whole or not at all.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            made = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: np.save(file, made, allow_pickle=False))
        return made
