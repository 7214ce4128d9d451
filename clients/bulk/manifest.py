"""The manifest of a bulk job: what the shards are, and that none is missing.

Last step of clients/bulk_embed.py, beside the walk SavedModel -> server -> client. Its presence says that the job is
done. It has no time of day and no name of a machine in it: the same job writes the same manifest.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from apache_beam.io.filesystems import FileSystems

from clients.bulk import storage
from clients.bulk.job import FORMAT_VERSION, BulkError, Job, Source
from clients.bulk.shards import Receipt

MANIFEST_FILE = "manifest.json"


def write_manifest(output: str, job: Job, receipts: Iterable[Receipt]) -> None:
    """Writes the manifest of a job.

    Raises:
        BulkError: a shard is missing.
        OSError: it cannot be written.
    """
    shards = sorted(receipts, key=lambda receipt: (receipt.source, receipt.start))
    by_source = {number: list(group) for number, group in itertools.groupby(shards, lambda receipt: receipt.source)}
    for source in job.sources:
        _check(source, by_source.get(source.number, []))
    document = {
        "format_version": FORMAT_VERSION,
        "fingerprint": job.fingerprint,
        **dataclasses.asdict(job.settings),
        "rows": sum(receipt.rows for receipt in shards),
        "failures": sum(receipt.failures for receipt in shards),
        "sources": [
            {**dataclasses.asdict(source), "rows": by_source[source.number][-1].stop} for source in job.sources
        ],
        "shards": [_shard(receipt) for receipt in shards],
    }
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    storage.write_whole(output, MANIFEST_FILE, text.encode())


def read_manifest(output: str) -> dict[str, Any]:
    """The manifest of the job in a folder; OSError while it is not done."""
    manifest: dict[str, Any] = json.loads(storage.read(FileSystems.join(output, MANIFEST_FILE)))
    return manifest


def _shard(receipt: Receipt) -> dict[str, Any]:
    fields = dataclasses.asdict(receipt)
    del fields["last"]
    return fields


def _check(source: Source, receipts: Sequence[Receipt]) -> None:
    """Raises BulkError unless the receipts cover a source from its first item to its last."""
    end = 0
    for receipt in receipts:
        if receipt.start != end:
            break
        end = receipt.stop
    else:
        if receipts and receipts[-1].last and source.rows in (None, end):
            return
    raise BulkError(f"the shards of {source.path} end at item {end}, before it does; run the command again")
