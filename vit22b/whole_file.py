"""Files that are there as a whole or not at all, whoever else writes them at the same time.

Beside the walk; every program that leaves a file which somebody reads later writes it by this. Standard library only.
"""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Lets `write` fill a file; it is there as a whole or, if that fails, as it was before.

    Args:
        path: in a folder that is there.
        write: is given the open file; what it returns does not matter.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")  # tempfile's would be closed to other users
    try:
        with partial.open("xb") as file:
            write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
