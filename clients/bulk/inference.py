"""The model of a bulk job as Beam's RunInference loads it: once in each process of a worker.

Beside the walk SavedModel -> server -> client: the server is left out.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference

from clients.bulk.job import Block
from clients.bulk.models import LoadedVersion
from clients.bulk.pipeline import as_bulk_errors, receipts_of
from clients.bulk.shards import Receipt, Target


class ExportHandler(ModelHandler[Block, Receipt, LoadedVersion]):
    """An export as a model of RunInference, whose examples are blocks.

    A block and not an image is the example, since a shard is to be whole: its images come in order, in batches that do
    not depend on how the runner cuts its bundles.
    """

    def __init__(self, target: Target, folder: str) -> None:
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._target, self._folder = target, folder

    def load_model(self) -> LoadedVersion:
        """Loads the export."""
        with as_bulk_errors(self._folder):
            return LoadedVersion(self._folder, self._target.settings)

    def run_inference(
        self, batch: Sequence[Block], model: LoadedVersion, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Receipt]:
        """Completes blocks; as many receipts as they have shards."""
        del inference_args
        for block in batch:
            yield from receipts_of(self._target, block, model)

    def get_metrics_namespace(self) -> str:
        """Of Beam's counters of loading and inference."""
        return "bulk_embed"


def by_inference(blocks: beam.PCollection, target: Target, folder: str) -> beam.PCollection:
    """Blocks to receipts, by an export that the workers load."""
    return blocks | "Embed" >> RunInference(ExportHandler(target, folder))
