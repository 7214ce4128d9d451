"""The Beam pipeline of a bulk job: sources -> blocks -> receipts of shards -> manifest.

The walk SavedModel -> server -> client, taken by many workers side by side. What passes between the steps is small:
places of items, and receipts of shards. Images and vectors stay within a worker.
"""

import contextlib
from collections.abc import Iterator

import apache_beam as beam

from clients.arguments import Server
from clients.bulk.job import Block, BulkError, Job, blocks
from clients.bulk.manifest import write_manifest
from clients.bulk.models import ServedVersion
from clients.bulk.shards import Model, Receipt, Target, complete
from vit22b.errors import VitError


def build(pipeline: beam.Pipeline, job: Job, target: Target, model: Server | str) -> None:
    """Adds a job to a pipeline.

    Args:
        pipeline: an empty one.
        job: already begun.
        target: of the job.
        model: the server that serves it, or the folder of the version that workers load.
    """
    places = (
        pipeline
        | "Sources" >> beam.Create(job.sources)
        | "Blocks" >> beam.FlatMap(blocks, job.settings.shard_rows)
        # Otherwise a runner may fuse the steps, and one worker gets all the blocks of a source.
        | "Spread" >> beam.Reshuffle()
    )
    if isinstance(model, Server):
        receipts = places | "Embed" >> beam.ParDo(EmbedServed(target, model))
    else:
        from clients.bulk.inference import by_inference  # it logs on import, and a served model does without

        receipts = by_inference(places, target, model)
    _ = receipts | "Receipts" >> beam.combiners.ToList() | "Manifest" >> beam.ParDo(WriteManifest(target.output, job))


class EmbedServed(beam.DoFn):
    """Blocks to receipts, by a served model: a client for each thread of a worker."""

    def __init__(self, target: Target, server: Server) -> None:
        self._target, self._server = target, server
        self._model: ServedVersion | None = None

    def setup(self) -> None:
        """Connects."""
        with as_bulk_errors(self._server.address):
            self._model = ServedVersion(self._server, self._target.settings)

    def process(self, element: Block) -> Iterator[Receipt]:
        """Completes a block."""
        assert self._model is not None
        yield from receipts_of(self._target, element, self._model)

    def teardown(self) -> None:
        """Disconnects."""
        if self._model is not None:
            self._model.close()


class WriteManifest(beam.DoFn):
    """The receipts of all shards to the manifest."""

    def __init__(self, output: str, job: Job) -> None:
        self._output, self._job = output, job

    def process(self, element: list[Receipt]) -> None:
        """Writes it."""
        with as_bulk_errors(self._output):
            write_manifest(self._output, self._job, element)


def receipts_of(target: Target, block: Block, model: Model) -> Iterator[Receipt]:
    """The receipts of a block; see clients.bulk.shards.complete. Errors are BulkError."""
    with as_bulk_errors(block.source.path):
        yield from complete(target, block, model)


@contextlib.contextmanager
def as_bulk_errors(what: str) -> Iterator[None]:
    """Makes a BulkError, which outlives the way from a worker to the caller, of what the other sides do wrong."""
    try:
        yield
    except (VitError, OSError, ValueError) as error:
        raise BulkError(f"{what}: {' '.join(str(error).split())}") from error
