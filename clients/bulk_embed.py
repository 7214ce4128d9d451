"""Embeds millions of images, on one machine or on many.

    .venv/bin/python clients/bulk_embed.py --input photos --output vectors --address=localhost:8500 --model=vit22b
    .venv/bin/python clients/bulk_embed.py --input "tars/{000..127}.tar" --output vectors --model_dir models/vit22b
    .venv/bin/python clients/bulk_embed.py --input gs://b/uris.parquet --output gs://b/vectors --runner=DataflowRunner

The walk SavedModel -> server -> client as an Apache Beam pipeline; docs/bulk.md describes the input, the output and the
runners. A flag that is not of this program is Beam's. A run that was interrupted, or killed, goes on by the same
command: what is done is not done again. Exits with 1 if an image was left out or the job failed, with 2 if the
arguments are wrong.
"""

import clients.bulk.quiet  # noqa: F401, I001 (before Beam is imported)

import dataclasses
import json
import sys
import time
from collections.abc import Sequence

import rich.table

from clients.bulk import storage
from clients.bulk.job import BulkError
from clients.bulk.manifest import MANIFEST_FILE, read_manifest
from clients.bulk.pipeline import build
from clients.bulk.plan import Order, plan
from clients.bulk.progress import watched
from clients.bulk.reading import Reading
from clients.bulk.runner import new_pipeline, run
from clients.bulk.shards import FAILURES, Target
from vit22b import program
from vit22b.errors import VitError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Embeds millions of images.

    Attributes:
        order: what is asked for.
        reading: how images are read that lie by themselves.
        json: print the summary as JSON.
    """

    order: Order
    reading: Reading = dataclasses.field(default_factory=Reading)
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        images, failures, shards: of the whole job; images with those that have no vector.
        new_images, new_shards: of this run.
        seconds: of this run, from the first look at the input to the manifest.
        images_per_second: of this run.
        space_id, version: of the vectors.
        manifest: the file.
    """

    images: int
    failures: int
    shards: int
    new_images: int
    new_shards: int
    seconds: float
    images_per_second: float
    space_id: str
    version: int
    manifest: str


def main(arguments: Arguments, beam_flags: Sequence[str] = ()) -> int:
    """Embeds and prints a summary; the exit code."""
    summary = embed(arguments, beam_flags)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(summary)))
    else:
        show(summary)
    if not summary.failures:
        return 0
    folder = summary.manifest.removesuffix(MANIFEST_FILE) + FAILURES
    print(f"error: {summary.failures} images have no vector; {folder} says which and why", file=sys.stderr)
    return 1


def embed(arguments: Arguments, beam_flags: Sequence[str] = ()) -> Summary:
    """Runs a job, or what is left of it.

    Args:
        arguments: of the program.
        beam_flags: Beam's, as on its command line.

    Raises:
        BulkError: the job failed.
        OSError, VitError: a file or the server fails before it has begun.
        ValueError: the arguments are wrong, or the output holds another job.
    """
    began = time.monotonic()
    pipeline = new_pipeline(beam_flags)
    planned = plan(arguments.order)
    job, output = planned.job, planned.output
    target = Target(output, job.fingerprint, job.settings, arguments.reading)
    build(pipeline, job, target, planned.model)
    with watched(target, job.shards) as before:
        run(pipeline)
    storage.clear_partial(output)
    manifest = read_manifest(output)
    new = [shard for shard in manifest["shards"] if (shard["source"], shard["start"]) not in before]
    images = sum(shard["stop"] - shard["start"] for shard in new)
    seconds = time.monotonic() - began
    return Summary(
        images=manifest["rows"] + manifest["failures"],
        failures=manifest["failures"],
        shards=len(manifest["shards"]),
        new_images=images,
        new_shards=len(new),
        seconds=seconds,
        images_per_second=images / seconds,
        space_id=manifest["space_id"],
        version=manifest["version"],
        manifest=f"{output}/{MANIFEST_FILE}",
    )


def show(summary: Summary) -> None:
    """Prints the summary."""
    table = rich.table.Table("", "this run", "the job")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("images", f"{summary.new_images:,}", f"{summary.images:,}")
    table.add_row("without a vector", "", f"{summary.failures:,}")
    table.add_row("shards", f"{summary.new_shards:,}", f"{summary.shards:,}")
    table.add_row("seconds", f"{summary.seconds:,.1f}", "")
    table.add_row("images/s", f"{summary.images_per_second:,.1f}", "")
    console = program.table_console()
    console.print(table)
    line = f"space {summary.space_id}, version {summary.version}; written to {summary.manifest}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    program.run(main, Arguments, __doc__, failures=(VitError, BulkError), rest=True)
