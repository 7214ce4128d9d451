"""A served model with its version pinned: rows in, rows out, all of one version and so of one embedding space.

Between vit22b.client, which says what a user may ask, and vit22b.transport, which carries it.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from vit22b import errors, signature, wire_pb2
from vit22b.batches import Batch, Inputs, NamedImage, check_inputs, image_batches, row_batches
from vit22b.embeddings import Embeddings, Floats
from vit22b.signature import Manifest
from vit22b.tensors import Array, from_wire, predict_request
from vit22b.tokenizer import Tokenizer
from vit22b.transport import Call, Transport

Item = TypeVar("Item")
Flags = npt.NDArray[np.bool_]
OnError = Literal["raise", "skip", "return"]

_FOREIGN = "ask for a model that this vit22b exported"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a served model says of itself.

    Attributes:
        version: the version that said it.
        manifest: its sizes, preprocessing, labels, signatures and space_id.
        tokenizer: of its text tower; None where it has none.
    """

    version: int
    manifest: Manifest
    tokenizer: Tokenizer | None


def describe(transport: Transport, version: int | None) -> Description:
    """Asks a model what it is.

    Args:
        transport: to its server.
        version: a version, or None for the latest.

    Raises:
        VitError: no answer, or a model that vit22b did not export.
    """
    request = predict_request(transport.model, signature.DESCRIBE, {}, version=version)
    try:
        answer = transport.predict(request).result()
        outputs = {name: from_wire(tensor).item() for name, tensor in answer.outputs.items()}
        manifest = Manifest.from_json(outputs[signature.MANIFEST])
        has_text = manifest.config.text is not None
        tokenizer = Tokenizer.from_json(outputs[signature.TOKENIZER]) if has_text else None
    except errors.RequestError as error:
        raise transport.error(errors.RequestError, error.message, error.code, _FOREIGN) from error
    except (KeyError, ValueError) as error:
        message = f"cannot read its description: {error}"
        raise transport.error(errors.ServerError, message, "DATA_LOSS", _FOREIGN) from error
    return Description(answer.model_spec.version.value, manifest, tokenizer)


class PinnedModel:
    """One version of a served model.

    Args:
        transport: to its server.
        description: of the version.
        in_flight: requests under way at once.
    """

    def __init__(self, transport: Transport, description: Description, in_flight: int) -> None:
        self.description = description
        self._transport, self._in_flight = transport, in_flight
        self._manifest = description.manifest
        self._width = description.manifest.config.image.embedding
        self._contract = self._manifest.contract()
        self._largest = description.manifest.batch_sizes[-1]

    def embed_images(self, images: Sequence[NamedImage], on_error: OnError) -> Embeddings:
        """Vectors of images; see Client.embed_images."""
        if on_error not in get_args(OnError):
            raise ValueError(f"on_error is {on_error!r}; expected one of {', '.join(get_args(OnError))}")
        vectors = np.zeros((len(images), self._width), np.float32)
        failures: list[errors.Failure] = []
        bad = f"no whole JPEG, PNG, WebP, GIF or BMP of at most {self._manifest.preprocess.max_pixels} pixels"
        for batch, rows, fine in self._image_answers(image_batches(images, self._largest, failures)):
            vectors[[image.index for image in batch.images]] = rows
            failures.extend(image.failure(bad) for image, ok in zip(batch.images, fine, strict=True) if not ok)
        failures.sort(key=lambda failure: failure.index)
        if failures and on_error == "raise":
            raise errors.ImageError(failures, address=self._transport.address, model=self._transport.model)
        failed = {failure.index for failure in failures} if on_error == "skip" else set()
        kept = [image for image in images if image.index not in failed]
        return Embeddings(
            vectors=vectors[[image.index for image in kept]],
            names=tuple(image.name for image in kept),
            indices=tuple(image.index for image in kept),
            space_id=self._manifest.space_id,
            version=self.description.version,
            failures=tuple(failures),
        )

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of texts; see Client.embed_texts."""
        if self.description.tokenizer is None:
            raise self._refusal("the model has no text tower", "ask for a model that was tuned with captions")
        ids = self.description.tokenizer.encode(texts)
        return self.embed_rows(signature.EMBED_TEXT, {signature.TOKEN_IDS: ids}, texts)

    def embed_rows(self, name: str, inputs: Inputs, names: Sequence[str]) -> Embeddings:
        """Vectors by the signature `name`, which has the output `embedding`, of n rows with the names given."""
        vectors = self.rows(name, inputs)[signature.EMBEDDING] if names else np.zeros((0, self._width), np.float32)
        version = self.description.version
        return Embeddings(vectors, tuple(names), tuple(range(len(names))), self._manifest.space_id, version)

    def rows(self, name: str, inputs: Inputs) -> dict[str, Array]:
        """Any signature over any number of rows; see Client.predict."""
        if name in self._contract:
            check_inputs(name, inputs, self._contract[name].inputs)
        requests = ((None, batch) for batch in row_batches(inputs, self._largest))
        answers = [outputs for _, outputs in self._answers(name, requests)]
        return {alias: np.concatenate([outputs[alias] for outputs in answers]) for alias in answers[0]}

    def _image_answers(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Floats, Flags]]:
        """Every batch with its vectors, and whether each of its images could be decoded."""
        if signature.EMBED_IMAGE_EACH not in self._manifest.signatures:
            for batch in batches:
                yield batch, *self._bisect(batch.encoded)
            return
        requests = ((batch, {signature.IMAGE_BYTES: batch.encoded}) for batch in batches)
        for batch, outputs in self._answers(signature.EMBED_IMAGE_EACH, requests):
            yield batch, outputs[signature.EMBEDDING], outputs[signature.OK]

    def _bisect(self, encoded: Sequence[bytes]) -> tuple[Floats, Flags]:
        """Finds the bad images by halves, where the model refuses a whole batch for one of them."""
        try:
            outputs = self.rows(signature.EMBED_IMAGE, {signature.IMAGE_BYTES: encoded})
            return outputs[signature.EMBEDDING], np.ones(len(encoded), np.bool_)
        except errors.RequestError as error:
            if error.code != "INVALID_ARGUMENT":
                raise
        if len(encoded) == 1:
            return np.zeros((1, self._width), np.float32), np.zeros(1, np.bool_)
        half = len(encoded) // 2
        left, right = self._bisect(encoded[:half]), self._bisect(encoded[half:])
        return np.concatenate([left[0], right[0]]), np.concatenate([left[1], right[1]])

    def _answers(self, name: str, requests: Iterable[tuple[Item, Inputs]]) -> Iterator[tuple[Item, dict[str, Array]]]:
        """Sends requests, a few at once, and gives the answers in order, each beside what came with its request."""
        if name not in self._manifest.signatures:
            raise self._refusal(f"the model has no signature {name}", f"it has {', '.join(self._manifest.signatures)}")
        waiting: collections.deque[tuple[Item, Call[wire_pb2.PredictResponse]]] = collections.deque()
        try:
            for item, inputs in requests:
                if len(waiting) == self._in_flight:
                    first, call = waiting.popleft()
                    yield first, self._outputs(call)
                request = predict_request(self._transport.model, name, inputs, version=self.description.version)
                waiting.append((item, self._transport.predict(request)))
            while waiting:
                first, call = waiting.popleft()
                yield first, self._outputs(call)
        finally:
            for _, call in waiting:
                call.cancel()

    def _outputs(self, call: Call[wire_pb2.PredictResponse]) -> dict[str, Array]:
        answer = call.result()
        asked, found = self.description.version, answer.model_spec.version.value
        if found != asked:
            message = f"version {asked} was asked and {found} has answered, whose vectors may lie in another space"
            remedy = "ask the server itself, or through a proxy that keeps the version"
            raise self._transport.error(errors.SpaceError, message, "FAILED_PRECONDITION", remedy)
        return {name: from_wire(tensor) for name, tensor in answer.outputs.items()}

    def _refusal(self, message: str, remedy: str) -> errors.VitError:
        return self._transport.error(errors.RequestError, message, "FAILED_PRECONDITION", remedy)
