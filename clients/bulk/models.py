"""The model of a bulk job: one that a server serves, or an export that a worker loads.

The step of clients/bulk_embed.py at which the walk SavedModel -> server -> client is taken, or, for an export, cut
short. Either model proves that it is the job's before it embeds.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from clients.arguments import Server
from clients.bulk.job import BulkError, Settings
from clients.bulk.versions import exported_manifest, remedy
from vit22b import encodings, signature
from vit22b.embeddings import Embeddings
from vit22b.errors import Failure, NotServedError, SpaceError


class ServedVersion:
    """A version of a served model.

    Args:
        server: where it is; its version is the job's.
        settings: of the job.

    Raises:
        BulkError: the version is not served, or is of another space than the job's.
        VitError: no answer.
    """

    def __init__(self, server: Server, settings: Settings) -> None:
        self._settings = settings
        self._client = dataclasses.replace(server, version=settings.version).client()
        try:
            found = self._client.describe().manifest.space_id
        except NotServedError as error:
            raise BulkError(f"{error.message}; {remedy(settings)}") from error
        _check_space(found, settings, f"version {settings.version} at {server.address}")

    def embed(self, images: Iterator[bytes]) -> Iterator[Embeddings]:
        """See clients.bulk.shards.Model.

        Raises:
            BulkError: the version has gone.
            VitError: no answer.
        """
        settings = self._settings
        try:
            yield from self._client.stream_images(
                images, on_error="skip", dimensions=settings.dimensions, encoding=settings.encoding
            )
        except (NotServedError, SpaceError) as error:
            raise BulkError(f"{error.message}; {remedy(settings)}") from error

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()


class LoadedVersion:
    """An export, run by TensorFlow in this process.

    Args:
        folder: of the version.
        settings: of the job.

    Raises:
        BulkError: the export is of another space than the job's.
        ValueError: it is no export that embeds image by image.
    """

    def __init__(self, folder: str, settings: Settings) -> None:
        manifest = exported_manifest(folder)
        _check_space(manifest.space_id, settings, folder)
        if signature.EMBED_IMAGE_EACH not in manifest.signatures:
            raise ValueError(
                f"the export {folder} has no signature {signature.EMBED_IMAGE_EACH}; export the model again"
            )
        import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
        import tensorflow as tf

        self._settings, self._sizes, self._constant = settings, manifest.batch_sizes, tf.constant
        self._refusal = manifest.preprocess.refusal
        self._model = tf.saved_model.load(folder)
        self._run = self._model.signatures[signature.EMBED_IMAGE_EACH]

    def embed(self, images: Iterator[bytes]) -> Iterator[Embeddings]:
        """See clients.bulk.shards.Model."""
        for start in itertools.count(step=self._sizes[-1]):
            batch = list(itertools.islice(images, self._sizes[-1]))
            if not batch:
                return
            yield self._part(start, batch)

    def _part(self, start: int, batch: list[bytes]) -> Embeddings:
        settings = self._settings
        # Compiled are the allowed sizes alone; what fills a batch up is answered and dropped.
        size = next(size for size in self._sizes if size >= len(batch))
        filled = self._constant(batch + batch[-1:] * (size - len(batch)))
        outputs = self._run(**{signature.IMAGE_BYTES: filled})
        ok = outputs[signature.OK].numpy()[: len(batch)]
        vectors = outputs[signature.EMBEDDING].numpy()[: len(batch)][ok]
        kept = tuple((start + np.flatnonzero(ok)).tolist())
        failed = (start + np.flatnonzero(~ok)).tolist()
        return Embeddings(
            vectors=encodings.encode(encodings.shorten(vectors, settings.dimensions), settings.encoding),
            names=tuple(f"image {index}" for index in kept),
            indices=kept,
            space_id=settings.space_id,
            version=settings.version,
            failures=tuple(Failure(index, f"image {index}", self._refusal) for index in failed),
            dimensions=settings.dimensions,
            encoding=settings.encoding,
        )


def _check_space(found: str, settings: Settings, where: str) -> None:
    """Raises BulkError unless a model is of the job's space."""
    if found != settings.space_id:
        raise BulkError(f"{where} is of the space {found}, the job is of {settings.space_id}; {remedy(settings)}")
