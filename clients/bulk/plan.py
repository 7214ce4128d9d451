"""The plan of a bulk job: what is asked for becomes a job, which is written down before any work is done.

First step of clients/bulk_embed.py, where the job is submitted, beside the walk SavedModel -> server -> client.
"""

import dataclasses
from typing import Annotated

import tyro

from clients.arguments import Server
from clients.bulk import storage
from clients.bulk.columns import choose_columns
from clients.bulk.inputs import find_files, sources
from clients.bulk.job import Format, Job, Kind, Settings, begin, begun
from clients.bulk.listing import list_images
from clients.bulk.versions import exported_manifest, model_name, served_version, version_folder
from vit22b import encodings
from vit22b.encodings import Encoding
from vit22b.signature import Manifest

_PATTERN = frozenset("*?[")


@dataclasses.dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes:
        input: files, folders, or patterns of them, on a disk or by URI: images, Parquet, TFRecord or WebDataset tars.
        output: folder for the shards and the manifest.
        server: where the model is, unless --model_dir is given.
        model_dir: folder of an exported model, or of a version of it, that every worker loads; no server is asked.
        kind: what the input is; by default the names of the files say it.
        column: Parquet column, or feature of a tf.train.Example, that holds the image, or its path or URI.
        key_column: the one that names an image; by default its path, or its place, does.
        shard_rows: inputs of a shard, which is what has to be done again when a worker is lost.
        format: of the shards.
        dimensions: how many of the vector's first dimensions to keep; all if not given.
        encoding: of the vectors; docs/clients.md has what each loses.
    """

    input: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH...")]
    output: str
    server: Server = dataclasses.field(default_factory=Server)
    model_dir: str | None = None
    kind: Kind | None = None
    column: str | None = None
    key_column: str | None = None
    shard_rows: int = 4096
    format: Format = "parquet"
    dimensions: int | None = None
    encoding: Encoding = "float32"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A job that is written down.

    Attributes:
        job: what is to be done.
        output: its folder, as every worker understands it.
        model: the server that serves its version, or the folder of the version.
    """

    job: Job
    output: str
    model: Server | str


def plan(order: Order) -> Plan:
    """Looks at the model and the input, and writes the job down, or finds that it is.

    Raises:
        BulkError: the model of the job that was begun is not served any more.
        OSError, VitError: a file or the server fails.
        ValueError: the order is wrong, or the output holds another job.
    """
    if order.shard_rows < 1:
        raise ValueError(f"shard_rows is {order.shard_rows}; expected at least 1")
    if _PATTERN & set(order.output):
        raise ValueError(f"the output is {order.output}; expected a name without *, ? and [")
    output = storage.absolute(order.output)
    held = begun(output)
    kind, files = find_files(order.input, order.kind)
    column, key_column = choose_columns(kind, [file.path for file in files], order.column, order.key_column)
    name, version, manifest, model = _model(order, held.settings if held else None)
    width = manifest.config.image.embedding
    encodings.check(order.dimensions, order.encoding, width)
    settings = Settings(
        model=name,
        version=version,
        space_id=manifest.space_id,
        dimensions=order.dimensions or width,
        encoding=order.encoding,
        format=order.format,
        shard_rows=order.shard_rows,
        kind=kind,
        column=column,
        key_column=key_column,
    )
    if kind == "images":
        listing = list_images(files, order.input)
        job = Job(settings, (listing.source,))
        begin(output, job)
        listing.write(output, order.shard_rows)
    else:
        job = Job(settings, sources(files, kind))
        begin(output, job)
    return Plan(job, output, model)


def _model(order: Order, held: Settings | None) -> tuple[str, int, Manifest, Server | str]:
    """Name, version and manifest of the model, and where the workers find it."""
    server = order.server
    if order.model_dir is None:
        version, manifest = served_version(server, held)
        return server.model, version, manifest, dataclasses.replace(server, version=version)
    asked = held.version if held and server.version is None else server.version
    folder, version = version_folder(order.model_dir, asked)
    return model_name(folder), version, exported_manifest(folder), folder
