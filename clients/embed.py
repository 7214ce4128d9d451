"""Embeds images with a served model.

    .venv/bin/python clients/embed.py cat.jpg dog.png --output vectors.npz
    find photos -name '*.jpg' | .venv/bin/python clients/embed.py - --output vectors.parquet --resume
    .venv/bin/python clients/embed.py photos --address localhost:8500 --model vit22b --output - | head -1

The last step of the walk: a SavedModel behind a server in, vectors out. The suffix of --output says how they are
written: .npz, .npy, .parquet or .jsonl (docs/clients.md has what is in each). Only vectors of one space_id can be
compared. Exits with 1 if an image was left out or the server failed, with 2 if the arguments are wrong, with 130 if it
was interrupted.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import rich.table
import rich.text
import tyro

from clients import vector_files
from clients.arguments import Server, check_output, report_failures
from clients.image_list import STANDARD, list_images
from clients.journal import Journal, Stamp, journal_file, stamp
from clients.origin import Array, Origin, space_changed
from clients.terminal import progress
from vit22b import program
from vit22b.client import Client
from vit22b.embeddings import Embeddings, join
from vit22b.encodings import Encoding
from vit22b.errors import Failure, VitError
from vit22b.folder import Record

ROWS = 10
_NUMBERS = {"float32": "numbers", "float16": "numbers", "int8": "numbers", "binary": "bytes"}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Embeds images with a served model.

    Attributes:
        images: files, or folders of them; - reads a list of them from stdin, one a line.
        server: where the model is.
        output: file to write, NAME.npz, .npy, .parquet or .jsonl; - writes lines of JSON to stdout.
        resume: go on where a run with the same output has ended, if there is one.
        dimensions: of each vector; all that the model has if not given.
        encoding: of each vector.
        json: print JSON in place of a table. It holds the vectors unless they go to a file.
        on_error: what an image that cannot be decoded does. skip: it is named and the others are written; raise: it is
            named and none is, which --output - cannot promise.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    server: Server = dataclasses.field(default_factory=Server)
    output: Path | None = None
    resume: bool = False
    dimensions: int | None = None
    encoding: Encoding = "float32"
    json: bool = False
    on_error: Literal["skip", "raise"] = "skip"

    def check(self) -> None:
        """Raises ValueError, before any work is done, for an output that cannot be or flags that exclude each other."""
        to_file = self.output not in (None, STANDARD)
        if self.resume and not to_file:
            raise ValueError("--resume is given without a file; name it by --output, as in the run that has ended")
        if self.json and self.output == STANDARD:
            raise ValueError("both --json and --output - are given, which write to stdout; leave one of them out")
        if self.on_error == "raise" and self.output == STANDARD:
            raise ValueError(
                "--output - writes lines before all images are seen; leave out --on_error raise, or name a file"
            )
        if self.output is not None and to_file:
            vector_files.check_suffix(self.output)
            check_output(self.output, self.output.suffix.lower())


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run has come to.

    Attributes:
        origin: of the vectors.
        names: of the images that have one.
        vectors: of the first of them, or of all.
        failures: the images that have none.
    """

    origin: Origin
    names: Sequence[str]
    vectors: Array
    failures: Sequence[Failure]


def main(arguments: Arguments) -> int:
    """Embeds, writes and prints; the exit code."""
    arguments.check()
    records = list_images(arguments.images)
    with arguments.server.client() as client:
        if arguments.output == STANDARD:
            failures = print_lines(client, records, arguments)
            report_failures(failures)
            return 1 if failures else 0
        if arguments.output is None:
            result = collect(client, records, arguments)
        else:
            result = write_file(client, records, arguments, arguments.output)
    report_failures(result.failures)
    if result.failures and arguments.on_error == "raise":
        return 1
    if arguments.json:
        print(json.dumps(document(result, vectors=arguments.output is None)))
    else:
        show(result, arguments.output)
    return 1 if result.failures else 0


def print_lines(client: Client, records: Sequence[Record], arguments: Arguments) -> list[Failure]:
    """Writes every vector to stdout as soon as it is there; the images that have none."""
    failures: list[Failure] = []
    with contextlib.closing(stream(client, records, arguments)) as parts, progress(len(records)) as advance:
        for part in parts:
            failures += part.failures
            origin = Origin.of(part)
            for name, vector in zip(part.names, part.vectors, strict=True):
                sys.stdout.write(vector_files.json_line(name, vector, origin))
            sys.stdout.flush()
            advance(len(part) + len(part.failures))
    return failures


def collect(client: Client, records: Sequence[Record], arguments: Arguments) -> Result:
    """Embeds, and keeps the vectors in memory: all for --json, and as many as are shown for a table."""
    kept: list[Embeddings] = []
    names: list[str] = []
    with contextlib.closing(stream(client, records, arguments)) as parts, progress(len(records)) as advance:
        for part in parts:
            names += part.names
            some = arguments.json or len(names) - len(part) < ROWS
            kept.append(part if some else dataclasses.replace(part, vectors=part.vectors[:0], names=(), indices=()))
            advance(len(part) + len(part.failures))
    found = join(kept)
    return Result(Origin.of(found), names, found.vectors, found.failures)


def write_file(client: Client, records: Sequence[Record], arguments: Arguments, output: Path) -> Result:
    """Embeds into the journal of the output, and makes the output of it."""
    with open_journal(client, records, arguments, output) as journal:
        try:
            failures = fill(journal, client, records, arguments)
            if failures and arguments.on_error == "raise":
                print(_left(journal), file=sys.stderr)
                return Result(journal.origin, (), journal.first(0), failures)
            vector_files.write(output, journal.origin, len(journal), journal.parts())
        except KeyboardInterrupt as error:
            raise program.Interrupted(f"interrupted; {_left(journal)}", 130) from error
        except (OSError, VitError):
            print(_left(journal), file=sys.stderr)
            raise
        journal.remove()
        return Result(journal.origin, journal.embedded(), journal.first(ROWS), failures)


def open_journal(client: Client, records: Sequence[Record], arguments: Arguments, output: Path) -> Journal:
    """The journal that the arguments ask for.

    Raises:
        ValueError: one that does not fit, or of which nobody asked to go on.
    """
    about = client.describe()
    dimensions = arguments.dimensions or about.manifest.config.image.embedding
    origin = Origin(about.manifest.space_id, about.version, dimensions, arguments.encoding)
    paths = [record.path for record in records]
    journal = Journal.resume(journal_file(output)) if arguments.resume else None
    if journal is None:
        return Journal.create(journal_file(output), origin, [str(path) for path in paths])
    try:
        journal.check(origin, paths)
    except ValueError:
        journal.close()
        raise
    return journal


def fill(journal: Journal, client: Client, records: Sequence[Record], arguments: Arguments) -> list[Failure]:
    """Embeds the images that the journal lacks; those that have no vector now.

    Raises:
        SpaceChangedError: the model answers in another space than that of the vectors in the journal.
    """
    places = journal.missing()
    stamps: dict[int, Stamp] = {}
    failures: list[Failure] = []

    def noted() -> Iterator[Record]:
        for place in places:
            # Before it is read: should it change from now on, the journal has what it was.
            stamps[place] = stamp(records[place].path)
            yield records[place]

    with (
        contextlib.closing(stream(client, noted(), arguments)) as parts,
        progress(len(records), done=len(journal)) as advance,
    ):
        for part in parts:
            # The model may have been replaced since it was described.
            if not len(journal) and Origin.of(part) != journal.origin:
                journal.begin(Origin.of(part))
            if not journal.origin.fits(part):
                remedy = f"serve the version of before again, or remove {journal.path} and begin anew"
                raise space_changed(journal.origin.space_id, part, client, remedy)
            journal.append([places[index] for index in part.indices], part.vectors, stamps)
            failures += (dataclasses.replace(failure, index=places[failure.index]) for failure in part.failures)
            advance(len(part) + len(part.failures))
    return failures


def stream(client: Client, records: Iterable[Record], arguments: Arguments) -> Iterator[Embeddings]:
    """Embeds part by part; what an image that fails does is decided when all have been looked at."""
    paths = (record.path for record in records)
    return client.stream_images(paths, on_error="skip", dimensions=arguments.dimensions, encoding=arguments.encoding)


def document(result: Result, *, vectors: bool) -> dict[str, Any]:
    """What --json prints."""
    return {
        "space_id": result.origin.space_id,
        "version": result.origin.version,
        "width": result.origin.dimensions,
        "encoding": result.origin.encoding,
        "names": list(result.names),
        "failures": [dataclasses.asdict(failure) for failure in result.failures],
        **({"vectors": result.vectors.tolist()} if vectors else {}),
    }


def show(result: Result, path: Path | None) -> None:
    """Prints a table of the first vectors, and what they are."""
    console = program.table_console()
    origin, count = result.origin, len(result.names)
    table = rich.table.Table("image", f"vector, the first 4 of {origin.width} {_NUMBERS[origin.encoding]}")
    pattern = "{:+.4f}" if origin.dtype.kind == "f" else "{:d}"
    for name, vector in zip(result.names[:ROWS], result.vectors, strict=False):
        table.add_row(rich.text.Text(name), "  ".join(pattern.format(number) for number in vector[:4].tolist()))
    console.print(table)
    more = f", {ROWS} of them shown" if count > ROWS else ""
    target = f"; written to {path}" if path else ""
    summary = f"{count} vectors{more}; space {origin.space_id}, version {origin.version}{target}"
    console.print(summary, highlight=False, markup=False, soft_wrap=True)


def _left(journal: Journal) -> str:
    if not len(journal):
        return "no image is embedded yet"
    done = f"{len(journal)} of {len(journal.names)} images are in {journal.path}"
    return f"{done}; the same command with --resume goes on from there"


if __name__ == "__main__":
    program.run(main, Arguments, __doc__, failures=(VitError,))
