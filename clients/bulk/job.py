"""A bulk job: what is embedded, by which model, into which shards; and the errors that end one.

Between the command line of clients/bulk_embed.py and its pipeline, beside the walk SavedModel -> server -> client. A
job is written down as job.json in its output before any work is done. A later run has to be the same job, so that every
shard is of one embedding space and of one set of images. What is the same is told by a fingerprint, which is part of
every shard's name.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal, Self

from apache_beam.io.filesystems import FileSystems

from clients.bulk import storage
from vit22b.encodings import Encoding
from vit22b.fields import from_fields

Kind = Literal["images", "parquet", "tfrecord", "webdataset"]
Format = Literal["parquet", "npy"]

JOB_FILE = "job.json"
FORMAT_VERSION = 1


class BulkError(RuntimeError):
    """A job that cannot go on; says how it can. A single text, so that Beam keeps it whole on its way to the caller."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every vector of a job has in common.

    Attributes:
        model, version, space_id: the model, whether served or loaded from its export.
        dimensions: of a vector.
        encoding: of a vector; see vit22b.encodings.
        format: of the shards.
        shard_rows: inputs of a shard; the last one of a file may have fewer.
        kind: of the input.
        column: the Parquet column, or the feature of a tf.train.Example, that has the image or its URI; "" where
            files have none.
        key_column: the one that names it, or "" where its place does.
    """

    model: str
    version: int
    space_id: str
    dimensions: int
    encoding: Encoding
    format: Format
    shard_rows: int
    kind: Kind
    column: str
    key_column: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A file that items are read from, in its order.

    Attributes:
        number: its place in the job.
        path: a path from the root, or a URI; of a listing that the job itself has written its name in the output.
        size, modified: bytes, and seconds since 1970 where the file system tells, by which a change is noticed; 0 of a
            listing, whose name changes with its content.
        rows: how many items it has, or None where only reading it tells.
    """

    number: int
    path: str
    size: int
    modified: float
    rows: int | None = None

    def location(self, output: str) -> str:
        """Where a worker finds it, given the job's output."""
        return self.path if "/" in self.path else FileSystems.join(output, self.path)


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of a source that one worker embeds: its items from `start` to before `stop`, None for all that follow."""

    source: Source
    start: int = 0
    stop: int | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """Settings and sources. Two jobs that are equal write the same files."""

    settings: Settings
    sources: tuple[Source, ...]

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that another job does not have."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    @property
    def shards(self) -> int | None:
        """How many shards there will be; None where only reading the sources tells."""
        rows = [source.rows for source in self.sources]
        return sum(max(1, -(-count // self.settings.shard_rows)) for count in rows) if None not in rows else None

    def to_json(self) -> str:
        """The job as JSON text with sorted keys."""
        values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads what to_json has written; ValueError for anything else."""
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"expected a job of format version {FORMAT_VERSION}, got {text[:80]!r}")
        settings = from_fields(Settings, values["settings"])
        return cls(settings, tuple(from_fields(Source, source) for source in values["sources"]))


def blocks(source: Source, shard_rows: int) -> Iterator[Block]:
    """The parts of a source that can be embedded side by side: its shards where its length is known, or else all."""
    if source.rows is None:
        yield Block(source)
        return
    for start in range(0, source.rows or 1, shard_rows):
        yield Block(source, start, min(start + shard_rows, source.rows))


def begun(output: str) -> Job | None:
    """The job that a folder holds, whether done or not; None for one without.

    Raises:
        ValueError: its job.json is none of ours.
    """
    path = FileSystems.join(output, JOB_FILE)
    if not FileSystems.exists(path):
        return None
    try:
        return Job.from_json(storage.read(path))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a bulk job: {error}; give another --output") from error


def begin(output: str, job: Job) -> None:
    """Writes a job down, or finds it written down already.

    Raises:
        ValueError: the folder holds another job; the message names both.
        OSError: the folder cannot be written to.
    """
    held = begun(output)
    if held is None:
        storage.write_whole(output, JOB_FILE, job.to_json().encode())
    elif held != job:
        raise ValueError(
            f"{output} holds another job, and a job's shards are never mixed: {_difference(held, job)}; "
            "run it as it was begun, or give another --output"
        )


def _difference(held: Job, job: Job) -> str:
    one, other = dataclasses.asdict(held.settings), dataclasses.asdict(job.settings)
    found = [
        f"its {name} is {_shown(one[name])}, this one's {_shown(other[name])}"
        for name in one
        if one[name] != other[name]
    ]
    if held.sources != job.sources:
        found.append(f"its input is {_inputs(held)}, this one's {_inputs(job)}")
    return "; ".join(found)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else repr(value)


def _inputs(job: Job) -> str:
    rows = sum(source.rows or 0 for source in job.sources)
    digest = hashlib.sha256(repr(job.sources).encode()).hexdigest()[:12]
    return f"{len(job.sources)} files{f' of {rows} rows' if rows else ''}, first {job.sources[0].path} (state {digest})"
