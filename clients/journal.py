"""The journal of a run of clients/embed.py: what is embedded so far, on disk, so that a run can go on where it ended.

Between the last step of the walk SavedModel -> server -> client and the file of vectors, which is made of it at the
end. It is a file of frames, each with its length and checksum; a frame that a kill has cut off is dropped when the
journal is opened again. So a run may end at any moment, and loses what was on its way.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from clients.origin import Array, Origin, Rows

Stamp = tuple[int, int]  # of a file: its bytes, and the nanosecond that it was written in

_MAGIC = b"vit22b-journal-1\n"
_FRAME = struct.Struct("<QI")  # bytes of the body, and its CRC-32
_GONE = (0, 0)
_ROWS = 8192  # that are in memory at once when the vectors are read back


def journal_file(output: Path) -> Path:
    """Where the journal of a file of vectors is."""
    return output.with_name(f"{output.name}.journal")


def stamp(path: Path) -> Stamp:
    """What changes when a file does; zeros for one that cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return _GONE
    return status.st_size, status.st_mtime_ns


class Journal:
    """A journal that is open, for this process alone; `create` or `resume` one.

    Attributes:
        path: the file.
        origin: of its vectors; its version is the one of the run that began it.
        names: all images of the run, in order.
        stamps: of the images that are embedded, by their place among the names.
    """

    def __init__(self, path: Path, file: BinaryIO, origin: Origin, names: Sequence[str]) -> None:
        self.path, self.origin, self.names = path, origin, tuple(names)
        self.stamps: dict[int, Stamp] = {}
        self._file = file
        self._offsets: dict[int, int] = {}  # of the vectors in the file

    @classmethod
    def create(cls, path: Path, origin: Origin, names: Sequence[str]) -> Self:
        """Begins one, in the place of one that has no vector yet.

        Raises:
            ValueError: there is one that has.
            OSError: the file cannot be written.
        """
        if found := _rows_of(path):
            raise ValueError(
                f"{path} has {found} vectors of a run that did not end; go on with it by --resume, or remove it"
            )
        journal = cls(path, _locked(path), origin, names)
        journal.begin(origin)
        return journal

    @classmethod
    def resume(cls, path: Path) -> Self | None:
        """Opens one, up to its last whole frame; None where there is none, or one that was killed as it began.

        Raises:
            ValueError: the file is no journal, or another process has it open.
            OSError: it cannot be read and written.
        """
        if not path.exists():
            return None
        with contextlib.ExitStack() as closing:
            file = closing.enter_context(_locked(path))
            if not _MAGIC.startswith(file.read(len(_MAGIC))):
                raise ValueError(f"{path} is no journal of clients/embed.py; remove it to begin anew")
            heading = _next_body(file)
            if heading is None:
                return None
            fields = json.loads(heading)
            journal = cls(path, file, Origin(**fields["origin"]), fields["names"])
            journal._read_frames()
            closing.pop_all()
        return journal

    def begin(self, origin: Origin) -> None:
        """Begins it as one of vectors of this origin; those that it has are lost."""
        self.origin = origin
        self.stamps.clear()
        self._offsets.clear()
        self._file.seek(0)
        self._file.truncate()
        self._file.write(_MAGIC)
        self._put(json.dumps({"origin": dataclasses.asdict(origin), "names": self.names}).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; one that has no vector is deleted."""
        if not self._offsets:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def missing(self) -> list[int]:
        """The places of the images that are not embedded yet."""
        return [place for place in range(len(self.names)) if place not in self._offsets]

    def check(self, origin: Origin, paths: Sequence[Path]) -> None:
        """Whether a run may go on with it; the version alone may be another one, of the same space.

        Raises:
            ValueError: another space, dimensions, encoding or list of images, or an image that has changed since.
        """
        ours, theirs = dataclasses.asdict(self.origin), dataclasses.asdict(origin)
        for field in ("space_id", "dimensions", "encoding"):
            if ours[field] != theirs[field]:
                raise self._refusal(
                    f"{field} {ours[field]} (version {self.origin.version})",
                    f"{field} {theirs[field]} (version {origin.version})",
                )
        if len(self.names) != len(paths):
            raise self._refusal(f"{len(self.names)} images", f"{len(paths)} images")
        for place, (name, path) in enumerate(zip(self.names, paths, strict=True)):
            if name != str(path):
                raise self._refusal(f"{name} as image {place}", f"{path}")
            if place in self.stamps and self.stamps[place] != (now := stamp(path)):
                raise self._refusal(f"{name} of {_told(self.stamps[place])}", f"{_told(now)}")

    def append(self, places: Sequence[int], vectors: Array, stamps: Mapping[int, Stamp]) -> None:
        """Adds vectors, [n, origin.width], of the images at n places. A process that is killed now keeps them."""
        if not places:
            return
        head = json.dumps({"places": list(places), "stamps": [stamps[place] for place in places]}).encode() + b"\n"
        content = np.ascontiguousarray(vectors, self.origin.dtype).tobytes()
        begin = self._put(head + content)
        self._note(head, begin + len(head))

    def embedded(self) -> list[str]:
        """The names of the images that have a vector, in their order."""
        return [self.names[place] for place in sorted(self._offsets)]

    def parts(self) -> Iterator[Rows]:
        """All names and vectors, in the order of the images."""
        places = sorted(self._offsets)
        for start in range(0, len(places), _ROWS):
            chosen = places[start : start + _ROWS]
            yield [self.names[place] for place in chosen], self._rows(chosen)

    def first(self, count: int) -> Array:
        """The first vectors, at most `count`."""
        return self._rows(sorted(self._offsets)[:count])

    def remove(self) -> None:
        """Deletes the file; what was in it is somewhere else by now."""
        self.path.unlink()

    @property
    def _row_bytes(self) -> int:
        return self.origin.width * self.origin.dtype.itemsize

    def _rows(self, places: Sequence[int]) -> Array:
        content = b"".join(os.pread(self._file.fileno(), self._row_bytes, self._offsets[place]) for place in places)
        return np.frombuffer(content, self.origin.dtype).reshape(-1, self.origin.width)

    def _refusal(self, before: str, now: str) -> ValueError:
        return ValueError(
            f"{self.path} was begun with {before}, now it is {now}; give what it was begun with, or remove it"
        )

    def _put(self, body: bytes) -> int:
        """Writes a frame; where its body begins."""
        begin = self._file.tell() + _FRAME.size
        self._file.write(_FRAME.pack(len(body), zlib.crc32(body)) + body)
        self._file.flush()
        return begin

    def _read_frames(self) -> None:
        """Reads what is in the file, and drops what is no whole frame."""
        whole = self._file.tell()
        while (body := _next_body(self._file)) is not None:
            head, _, _ = body.partition(b"\n")
            self._note(head, whole + _FRAME.size + len(head) + 1)
            whole = self._file.tell()
        self._file.seek(whole)
        self._file.truncate()

    def _note(self, head: bytes, offset: int) -> None:
        fields: dict[str, Any] = json.loads(head)
        for number, (place, (size, written)) in enumerate(zip(fields["places"], fields["stamps"], strict=True)):
            self._offsets[place] = offset + number * self._row_bytes
            self.stamps[place] = size, written


def _locked(path: Path) -> BinaryIO:
    """The file, open to be read and written, and to nobody else of this kind."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ValueError(f"another process is writing {path}; wait for it, or name another output") from error
    return file


def _rows_of(path: Path) -> int:
    journal = Journal.resume(path)
    if journal is None:
        return 0
    with journal:
        return len(journal)


def _next_body(file: BinaryIO) -> bytes | None:
    """The body of the frame that begins here, or None where there is no whole one."""
    head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    size, checksum = _FRAME.unpack(head)
    if size > os.fstat(file.fileno()).st_size - file.tell():
        return None
    body = file.read(size)
    return body if zlib.crc32(body) == checksum else None


def _told(found: Stamp) -> str:
    if found == _GONE:
        return "gone"
    size, written = found
    return f"{size} bytes, written at {np.datetime64(written, 'ns').astype('datetime64[ms]')} UTC"
