"""A version's place in a model repository: its number, and a folder that appears there only once it is whole.

Between SavedModel and server on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
An export works in `.<number>.partial-<random>@<host>` beside the versions, which no server takes for one, and holds a
lock on that folder for as long as it lives. So what a killed export left is told from what another one is writing; on
the same host, that is, since a network file system may keep a lock on a folder to the host that took it.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf

_PARTIAL = re.compile(r"\.(\d+)\.partial-\w+(?:@(?P<host>.+))?")
# What a rename says of a name that is taken, by a folder with something in it or by a file.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


@dataclasses.dataclass
class Stage:
    """A version that is being written.

    Attributes:
        folder: to write into.
        version: its number; where none was asked for, it may become a higher one as the version gets its place.
    """

    folder: Path
    version: int


def choose_version(model: Path, wanted: int | None) -> int:
    """The version to write: the one that is wanted, or the next free number. One that is being written is not free.

    Raises:
        ValueError: the version is there already, is being written, or is no version.
    """
    taken = {int(p.name) for p in model.iterdir() if p.name.isdecimal()} if model.is_dir() else set()
    under_way = {number: folder for number, folder in _partial(model) if not _abandoned(folder)}
    free = max(taken | set(under_way), default=0) + 1
    if wanted is None:
        return free
    if wanted < 0:
        raise ValueError(f"--version is {wanted}; expected 0 or more")
    if wanted in taken:
        raise ValueError(
            f"{model / str(wanted)} exists already and may be served; leave --version out to write {free}, or remove "
            "it first"
        )
    if wanted in under_way:
        raise _under_way(model, wanted, under_way[wanted])
    return wanted


@contextlib.contextmanager
def staged(model: Path, wanted: int | None, size: int = 0) -> Iterator[Stage]:
    """A folder beside the version's, under a name that no server takes for a version, renamed to it at the end.

    Where the body fails, nothing is left of it. A process that is killed leaves the folder, and the next export of the
    model removes it.

    Args:
        model: the model's folder, made where it is not there.
        wanted: number of the version, or None for the next free one.
        size: bytes at least that will be written; where the disk has less, nothing is begun.

    Raises:
        ValueError: another export is writing the wanted version, or it came into being; nothing is overwritten.
        OSError: the folder cannot be written, for instance because the disk is full.
    """
    model.mkdir(parents=True, exist_ok=True)
    with _alone(model):
        _sweep(model)
        version = choose_version(model, wanted)
        _require_space(model, size)
        folder, lock = _make(model, version)
    stage = Stage(folder, version)
    try:
        yield stage
        # On the disk before it has its name, should the machine fail.
        for path in (folder, *folder.rglob("*")):
            _flush(path)
        folder.chmod(0o755)  # mkdtemp makes it for its owner alone; a server may run as somebody else
        _place(model, stage, wanted)
        _flush(model)
    except (OSError, tf.errors.OpError) as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        text = f"the disk is full: nothing is left of version {version}; make room and export again"
        raise OSError(errno.ENOSPC, text, str(model)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def rewrite(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file of a version anew, beside its place, and renames it: a server may be reading it.

    Args:
        path: the file.
        write: writes the path that it is given.
    """
    beside = path.with_name(f".{path.name}.partial")
    write(beside)
    beside.replace(path)


def renew_fingerprint(version: Path) -> None:
    """Writes a SavedModel's fingerprint.pb anew after its saved_model.pb changed: the old one is another graph's."""
    # By the private name: the public reader of a fingerprint has no writer beside it.
    from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

    write_fingerprint(str(version))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as the manifest has it, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _alone(model: Path) -> Iterator[None]:
    """Lets one export at a time choose its number and make its folder."""
    descriptor = os.open(model, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: _place finds the number that is taken
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _place(model: Path, stage: Stage, wanted: int | None) -> None:
    """Gives the folder its number as a name, or the next free one where none was asked for."""
    while True:
        try:
            stage.folder.rename(model / str(stage.version))
            return
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            if wanted is not None:
                raise ValueError(
                    f"{model / str(wanted)} was written by somebody else meanwhile; export again"
                ) from error
        with _alone(model):
            stage.version = choose_version(model, None)


def _make(model: Path, version: int) -> tuple[Path, int]:
    """A partial folder and the descriptor that holds its lock. It gets its name when it has its lock, never before."""
    unnamed = Path(tempfile.mkdtemp(prefix=".export-", dir=model))
    lock = os.open(unnamed, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system without locks: nobody will take the folder for abandoned
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    name = f".{version}.partial-{unnamed.name.removeprefix('.export-')}@{socket.gethostname()}"
    return unnamed.rename(model / name), lock


def _sweep(model: Path) -> None:
    for _, folder in _partial(model):
        if _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            print(f"removed {folder}, which an export that was killed had left", file=sys.stderr)
        elif host := _other_host(folder):
            print(f"{folder} is of an export on {host}; remove it if there is none any more", file=sys.stderr)


def _under_way(model: Path, version: int, folder: Path) -> ValueError:
    return ValueError(
        f"another export is writing {model / str(version)}, in {folder}; wait for its end, or leave --version out for "
        "the next free number; if there is no other export, remove that folder"
    )


def _require_space(model: Path, size: int) -> None:
    free = shutil.disk_usage(model).free
    if free < size:
        needed = f"the version takes {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
        raise OSError(errno.ENOSPC, f"{needed}; make room, or take another disk", str(model))


def _partial(model: Path) -> list[tuple[int, Path]]:
    """The unfinished versions of a model, by number."""
    names = sorted(model.iterdir()) if model.is_dir() else []
    return [(int(found[1]), path) for path in names if (found := _PARTIAL.fullmatch(path.name))]


def _other_host(folder: Path) -> str:
    """The host that a partial folder is of, or "" if it is this one."""
    found = _PARTIAL.fullmatch(folder.name)
    host = found["host"] if found else None
    return "" if host in (None, socket.gethostname()) else str(host)


def _abandoned(folder: Path) -> bool:
    """Whether no living process holds the folder's lock; False where that cannot be told."""
    if _other_host(folder):
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # it has just been renamed or removed
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two who ask do not see each other
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
