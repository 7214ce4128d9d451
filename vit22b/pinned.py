"""A served model with its version pinned: rows in, rows out, all of one version and so of one embedding space.

Between vit22b.served, which begins anew when the version goes, and vit22b.transport, which carries requests.
"""

import collections
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vit22b import errors, signature, wire_pb2
from vit22b.batches import Batch, Inputs, check_inputs, image_batches, row_batches
from vit22b.described import FOREIGN, Description
from vit22b.parts import Part, Pin
from vit22b.sources import NamedImage
from vit22b.tensors import Array, from_wire, predict_request
from vit22b.transport import Call, Transport

Item = TypeVar("Item")
Flags = npt.NDArray[np.bool_]


class PinnedModel:
    """One version of a served model.

    Args:
        transport: to its server.
        description: of the version.
        in_flight: requests under way at once.

    Attributes:
        absences: of the server, when the description was last confirmed.
        confirmed: when that was, by time.monotonic().
        pin: the version, and the space and the dimensions of its vectors.
    """

    def __init__(self, transport: Transport, description: Description, in_flight: int) -> None:
        self.description = description
        self.absences, self.confirmed = transport.absences, time.monotonic()
        self._transport, self._in_flight = transport, in_flight
        self._manifest = description.manifest
        self._contract = self._manifest.contract()
        self._largest = description.manifest.batch_sizes[-1]
        width = self._manifest.config.image.embedding
        self.pin = Pin(self._manifest.space_id, description.version, width)

    def images(
        self, images: AsyncIterator[NamedImage], name: str, outputs: Sequence[str]
    ) -> AsyncGenerator[Part, None]:
        """Any signature that takes encoded images and answers for each of them, part by part, in order.

        Args:
            images: those of a part are read when a request is made of them.
            name: of the signature; embed_image_each is done without where a model lacks it.
            outputs: that are wanted.

        Raises:
            VitError: no answer, or no such signature.
        """
        batches = image_batches(images, self._largest, self._transport.waits)
        if name == signature.EMBED_IMAGE_EACH and name not in self._manifest.signatures:
            return self._parts(self._one_by_one(batches), outputs)
        requests = self._requests(batches)
        return self._parts(self._answers(name, requests, (*outputs, signature.OK)), outputs)

    def token_ids(self, texts: Sequence[str]) -> Array:
        """Texts as the text tower takes them: int32 [n, T].

        Raises:
            RequestError: the model has no text tower.
        """
        if self.description.tokenizer is None:
            raise self._refusal("the model has no text tower", "ask for a model that was tuned with captions")
        return self.description.tokenizer.encode(texts)

    async def rows(self, name: str, inputs: Inputs) -> dict[str, Array]:
        """Any signature over any number of rows; see Client.predict."""
        if name in self._contract:
            check_inputs(name, inputs, self._contract[name].inputs)
        requests = _each((None, batch) for batch in row_batches(inputs, self._largest))
        async with contextlib.aclosing(self._answers(name, requests)) as found:
            answers = [outputs async for _, outputs in found]
        return {alias: np.concatenate([outputs[alias] for outputs in answers]) for alias in answers[0]}

    async def _parts(
        self, answers: AsyncGenerator[tuple[Batch, dict[str, Array]], None], outputs: Sequence[str]
    ) -> AsyncGenerator[Part, None]:
        bad = self._manifest.preprocess.refusal
        async with contextlib.aclosing(answers):
            async for batch, answered in answers:
                failures = dict(batch.unreadable)
                for image, ok in zip(batch.readable(), answered[signature.OK], strict=True):
                    if not ok:
                        failures[image.index] = image.failure(bad)
                places = [place for place, image in enumerate(batch.images) if image.index not in batch.unreadable]
                rows = {alias: _spread(answered[alias], places, len(batch.images)) for alias in outputs}
                yield Part(self.pin, batch.images, rows, failures)

    async def _requests(self, batches: AsyncGenerator[Batch, None]) -> AsyncGenerator[tuple[Batch, Inputs], None]:
        async with contextlib.aclosing(batches):
            async for batch in batches:
                yield batch, {signature.IMAGE_BYTES: batch.encoded}

    async def _one_by_one(self, batches: AsyncIterator[Batch]) -> AsyncGenerator[tuple[Batch, dict[str, Array]], None]:
        async for batch in batches:
            vectors, ok = await self._bisect(batch.encoded)
            yield batch, {signature.EMBEDDING: vectors, signature.OK: ok}

    async def _bisect(self, encoded: Sequence[bytes]) -> tuple[Array, Flags]:
        """Finds the bad images by halves, where the model refuses a whole batch for one of them."""
        nothing = np.zeros((len(encoded), self.pin.width), np.float32), np.zeros(len(encoded), np.bool_)
        if not encoded:
            return nothing
        try:
            outputs = await self.rows(signature.EMBED_IMAGE, {signature.IMAGE_BYTES: encoded})
            return outputs[signature.EMBEDDING], np.ones(len(encoded), np.bool_)
        except errors.RequestError as error:
            if error.code != "INVALID_ARGUMENT":
                raise
        if len(encoded) == 1:
            return nothing
        half = len(encoded) // 2
        left, right = await self._bisect(encoded[:half]), await self._bisect(encoded[half:])
        return np.concatenate([left[0], right[0]]), np.concatenate([left[1], right[1]])

    async def _answers(
        self, name: str, requests: AsyncGenerator[tuple[Item, Inputs], None], outputs: Sequence[str] = ()
    ) -> AsyncGenerator[tuple[Item, dict[str, Array]], None]:
        """Sends requests, a few at once, and gives the answers in order, each beside what came with its request."""
        if name not in self._manifest.signatures:
            has = ", ".join(self._manifest.signatures)
            raise self._refusal(f"the model has no signature {name}", f"export it again if it is old; it has {has}")
        waiting: collections.deque[tuple[Item, Call[wire_pb2.PredictResponse] | None]] = collections.deque()
        try:
            async with contextlib.aclosing(requests):
                async for item, inputs in requests:
                    if len(waiting) == self._in_flight:
                        first, call = waiting.popleft()
                        yield first, await self._outputs(call, name, outputs)
                    waiting.append((item, self._call(name, inputs, outputs)))
            while waiting:
                first, call = waiting.popleft()
                yield first, await self._outputs(call, name, outputs)
        finally:
            for _, call in waiting:
                if call is not None:
                    call.cancel()

    def _call(self, name: str, inputs: Inputs, outputs: Sequence[str]) -> Call[wire_pb2.PredictResponse] | None:
        """Sends a request; None in place of one without rows, of a batch of which no image could be read."""
        if not any(len(values) for values in inputs.values()):
            return None
        version = self.description.version
        return self._transport.predict(
            predict_request(self._transport.model, name, inputs, version=version, outputs=outputs)
        )

    async def _outputs(
        self, call: Call[wire_pb2.PredictResponse] | None, name: str, wanted: Sequence[str]
    ) -> dict[str, Array]:
        if call is None:
            return {
                alias: np.zeros((0, *(size or 0 for size in tensor.shape[1:])), tensor.dtype)
                for alias, tensor in self._contract[name].outputs.items()
            }
        answer = await call.result()
        asked, found = self.description.version, answer.model_spec.version.value
        if found != asked:
            message = f"version {asked} was asked and {found} has answered, whose vectors may lie in another space"
            remedy = "ask the server itself, or through a proxy that keeps the version"
            raise self._transport.error(errors.SpaceError, message, "FAILED_PRECONDITION", remedy)
        try:
            outputs = {alias: from_wire(tensor) for alias, tensor in answer.outputs.items()}
            missing = [alias for alias in wanted if alias not in outputs]
            if missing:
                raise ValueError(f"it has no {', '.join(missing)}")
        except ValueError as error:
            message = f"cannot read the answer of {name}: {error}"
            raise self._transport.error(errors.ServerError, message, "DATA_LOSS", FOREIGN) from error
        return outputs

    def _refusal(self, message: str, remedy: str) -> errors.VitError:
        return self._transport.error(errors.RequestError, message, "FAILED_PRECONDITION", remedy)


def _spread(rows: Array, places: Sequence[int], count: int) -> Array:
    """Rows at their places among `count`, with zeros between."""
    if len(places) == count:
        return rows
    spread = np.zeros((count, *rows.shape[1:]), rows.dtype)
    spread[list(places)] = rows
    return spread


async def _each(items: Iterable[Item]) -> AsyncGenerator[Item, None]:
    for item in items:
        yield item
