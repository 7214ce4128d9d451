"""A version's place in a model repository: its number, and a folder that appears there only once it is whole.

Between SavedModel and server on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def choose_version(model: Path, wanted: int | None) -> int:
    """The version to write: the one that is wanted, or the next free number.

    Raises:
        ValueError: the version is there already, or is no version.
    """
    taken = {int(p.name) for p in model.iterdir() if p.name.isdecimal()} if model.is_dir() else set()
    if wanted is None:
        return max(taken, default=0) + 1
    if wanted < 0:
        raise ValueError(f"--version is {wanted}; expected 0 or more")
    if wanted in taken:
        raise ValueError(
            f"{model / str(wanted)} exists already and may be served; leave --version out to write "
            f"{max(taken) + 1}, or remove it first"
        )
    return wanted


@contextlib.contextmanager
def staged(model: Path, version: int) -> Iterator[Path]:
    """A folder beside the version's, under a name that no server takes for a version, renamed to it at the end.

    Where the body fails, nothing is left of it.

    Raises:
        ValueError: the version came into being meanwhile; nothing is overwritten.
    """
    model.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{version}.partial-", dir=model))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp makes it for its owner alone; a server may run as somebody else
        try:
            folder.rename(model / str(version))
        except OSError as error:
            raise ValueError(f"{model / str(version)} was written by somebody else meanwhile; export again") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as the manifest has it, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
