"""What a client does, written once for both of its kinds: version and space kept, work begun anew when they change.

Between vit22b.client, which says what a user may ask, and vit22b.pinned, one version of the model, on the walk
SavedModel -> server -> client.
"""

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar, get_args

import numpy as np

from vit22b import encodings, errors, parts, signature
from vit22b.batches import Inputs
from vit22b.described import Description, VersionState, describe, space_of, versions
from vit22b.embeddings import Classification, ClassVectors, Embeddings, Features, Floats, join
from vit22b.encodings import Form
from vit22b.feed import Feed
from vit22b.parts import OnError, Part
from vit22b.pinned import PinnedModel
from vit22b.prompts import class_bank, find_templates, prompts
from vit22b.sources import Image, NamedImage, check_several, named
from vit22b.tensors import Array
from vit22b.transport import Transport

Result = TypeVar("Result")
Images = Iterable[Image] | AsyncIterable[Image]

_FRESH = 10.0  # seconds that what a model has said of itself holds
_EMBED_AGAIN = "embed the classes again with the model of today"  # the remedy
_RESTARTS = 5  # in a row without an answer: a model that is replaced faster than it answers


class ServedModel:
    """A model on a server, and the version of it that was pinned.

    Args:
        transport: to the server.
        version: a version to stay with; None for the latest.
        in_flight: requests under way at once.
        allow_urls: whether an image may be an address on the web.
    """

    def __init__(self, transport: Transport, version: int | None, in_flight: int, *, allow_urls: bool) -> None:
        self._transport, self._version = transport, version
        self._in_flight, self._allow_urls = in_flight, allow_urls
        self._model: PinnedModel | None = None

    async def describe(self) -> Description:
        """See Client.describe."""
        return (await self._pin()).description

    async def versions(self) -> tuple[VersionState, ...]:
        """See Client.versions."""
        return await versions(self._transport)

    async def embed_images(self, images: Images, on_error: OnError, form: Form) -> Embeddings:
        """See Client.embed_images."""
        model = await self._fitting(form)
        found = await self._collect(images, signature.EMBED_IMAGE_EACH, [signature.EMBEDDING], on_error)
        if not found:
            return parts.formed(model.pin, np.zeros((0, model.pin.width), np.float32), (), form)
        return join([parts.embeddings(part, on_error, form) for part in found])

    async def stream_images(self, images: Images, on_error: OnError, form: Form) -> AsyncGenerator[Embeddings, None]:
        """See Client.stream_images."""
        _check_on_error(on_error)
        await self._fitting(form)
        stream = self._stream(self._named(images), signature.EMBED_IMAGE_EACH, [signature.EMBEDDING])
        async with contextlib.aclosing(stream):
            async for part in stream:
                if on_error == "raise":
                    self._refuse(parts.failures([part]))
                yield parts.embeddings(part, on_error, form)

    async def embed_pixels(self, pixels: Array, form: Form) -> Embeddings:
        """See Client.embed_pixels."""
        names = [f"image {index}" for index in range(len(pixels))]
        inputs = {signature.PIXELS: pixels}
        await self._fitting(form)
        return await self._pinned(lambda model: _rows(model, signature.EMBED_PIXELS, inputs, names, form))

    async def embed_texts(self, texts: Sequence[str], form: Form) -> Embeddings:
        """See Client.embed_texts."""

        async def work(model: PinnedModel) -> Embeddings:
            ids = await self._transport.waits.work(lambda: model.token_ids(texts))
            inputs = {signature.TOKEN_IDS: ids}
            return await _rows(model, signature.EMBED_TEXT, inputs, texts, form)

        await self._fitting(form)
        return await self._pinned(work)

    async def features(self, images: Images, tokens: bool, layers: Sequence[int], on_error: OnError) -> Features:
        """See Client.features."""
        manifest = (await self.describe()).manifest
        if missing := sorted(set(layers) - set(manifest.feature_layers)):
            raise ValueError(
                f"layers are {list(layers)}, and the model answers {list(manifest.feature_layers)} and not {missing}; "
                "export it with --feature_layers"
            )
        outputs = [signature.POOLED, *([signature.TOKENS] if tokens else []), *map(signature.layer_tokens, layers)]
        found = await self._collect(images, signature.FEATURES_EACH, outputs, on_error)
        if not found:
            raise ValueError("there are no images; expected one or more")
        return parts.features(found, on_error, layers)

    async def embed_classes(self, classes: Sequence[str], templates: Sequence[str]) -> ClassVectors:
        """See Client.embed_classes."""
        found = find_templates(templates)
        rows = prompts(classes, found)
        texts = await self.embed_texts([text for row in rows for text in row], Form())
        bank = class_bank(texts.vectors.reshape(len(rows), len(rows[0]), -1))
        return ClassVectors(tuple(classes), found, bank, texts.space_id, texts.version)

    async def classify(
        self, images: Images, classes: Sequence[str] | ClassVectors, templates: Sequence[str], on_error: OnError
    ) -> Classification:
        """See Client.classify."""
        again = self._again(images)
        if isinstance(classes, ClassVectors):
            await self._check_space(classes)
        for left in reversed(range(_RESTARTS)):
            given = isinstance(classes, ClassVectors)
            bank = classes if isinstance(classes, ClassVectors) else await self.embed_classes(classes, templates)
            found = await self.embed_images(again or images, on_error, Form())
            if found.space_id == bank.space_id:
                return Classification(found.vectors @ bank.vectors.T, bank.classes, found)
            if given or again is None or not left:
                raise self._mixed(bank.space_id, found.space_id, _EMBED_AGAIN)
        raise AssertionError("unreachable")

    async def predict(self, name: str, inputs: Inputs) -> dict[str, Array]:
        """See Client.predict."""
        return await self._pinned(lambda model: model.rows(name, inputs))

    async def _check_space(self, bank: ClassVectors) -> None:
        """Raises SpaceError, before an image is sent, for classes of another space than the model's."""
        model = await self._pin()
        if model.pin.space_id != bank.space_id and await self._is_still(model, ask=True):
            raise self._mixed(bank.space_id, model.pin.space_id, _EMBED_AGAIN)

    async def _pin(self) -> PinnedModel:
        if self._model is not None and not await self._is_still(self._model):
            self._model = None
        if self._model is None:
            self._model = PinnedModel(self._transport, await describe(self._transport, self._version), self._in_flight)
        return self._model

    async def _fitting(self, form: Form) -> PinnedModel:
        """The pinned version; ValueError, before there is any work, unless it has so many dimensions."""
        model = await self._pin()
        encodings.check(form.dimensions, form.encoding, model.pin.width)
        return model

    async def _is_still(self, model: PinnedModel, *, ask: bool = False) -> bool:
        """Whether the pinned version is what answers by its number: a server that was away may have another model.

        It is asked where a request has failed since, and now and then, since an idle client sees no failure; and
        where the caller wants it to be.
        """
        absences, now = self._transport.absences, time.monotonic()
        if not ask and model.absences == absences and now - model.confirmed < _FRESH:
            return True
        try:
            space_id = await space_of(self._transport, model.description.version)
        except errors.NotServedError:
            return False
        model.absences, model.confirmed = absences, now
        return space_id == model.pin.space_id

    def _unpin(self, model: PinnedModel) -> None:
        """Forgets a version that is served no more. If there is no other, the next pin says so."""
        if self._model is model:  # and not one that another thread or task has found meanwhile
            self._model = None

    async def _pinned(self, work: Callable[[PinnedModel], Awaitable[Result]]) -> Result:
        """Does the work with one version; anew, should it go meanwhile."""
        for _ in range(_RESTARTS):
            model = await self._pin()
            with contextlib.suppress(errors.NotServedError):
                result = await work(model)
                if await self._is_still(model):
                    return result
            self._unpin(model)
        return await work(await self._pin())

    async def _collect(self, images: Images, name: str, outputs: Sequence[str], on_error: OnError) -> list[Part]:
        """All parts of a stream, of one space; anew, should the space change and the images be there still."""
        _check_on_error(on_error)
        again = self._again(images)
        for left in reversed(range(_RESTARTS)):
            stream = self._stream(self._named(again or images), name, outputs)
            try:
                async with contextlib.aclosing(stream):
                    found = [part async for part in stream]
            except errors.SpaceChangedError:
                if again is None or not left:
                    raise
            else:
                if on_error == "raise":
                    self._refuse(parts.failures(found))
                return found
        raise AssertionError("unreachable")

    async def _stream(
        self, images: AsyncIterator[NamedImage], name: str, outputs: Sequence[str]
    ) -> AsyncGenerator[Part, None]:
        """What comes of each request, in order and of one space."""
        feed, space, failed = Feed(images), "", 0
        while True:
            model = await self._pin()
            if space and model.pin.space_id != space:
                remedy = f"{feed.done} images were answered; do the job anew, with a list it does so by itself"
                raise self._mixed(space, model.pin.space_id, remedy)
            try:
                async with contextlib.aclosing(model.images(feed.unanswered(), name, outputs)) as found:
                    async for part in found:
                        if not await self._is_still(model):
                            raise self._transport.error(
                                errors.NotServedError, "the version has been replaced", "NOT_FOUND", "ask again"
                            )
                        space, failed = model.pin.space_id, 0
                        feed.answered(len(part.images))
                        yield part
            except errors.NotServedError:
                # The version was unloaded. Another one of the same space goes on where this one ended.
                self._unpin(model)
                failed += 1
                if failed > _RESTARTS:
                    raise
            else:
                return

    def _again(self, images: Images) -> list[NamedImage] | None:
        """The images so that they can be gone through several times; None for those that come once."""
        check_several(images)
        if not isinstance(images, Sequence | np.ndarray):
            return None
        return [self._name(index, image) for index, image in enumerate(images)]

    async def _named(self, images: Images) -> AsyncIterator[NamedImage]:
        check_several(images)
        index = 0
        async for image in self._transport.waits.items(images):
            yield self._name(index, image)
            index += 1

    def _name(self, index: int, image: Any) -> NamedImage:
        return image if isinstance(image, NamedImage) else named(index, image, allow_urls=self._allow_urls)

    def _refuse(self, failures: Iterable[errors.Failure]) -> None:
        """Raises ImageError if there is a failure."""
        if found := tuple(failures):
            raise errors.ImageError(found, address=str(self._transport.addresses), model=self._transport.model)

    def _mixed(self, one: str, other: str, remedy: str) -> errors.VitError:
        message = f"the vectors would lie in two spaces, {one} and {other}, since another version is served now"
        return self._transport.error(errors.SpaceChangedError, message, "FAILED_PRECONDITION", remedy)


def _check_on_error(on_error: str) -> None:
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error is {on_error!r}; expected one of {', '.join(get_args(OnError))}")


async def _rows(model: PinnedModel, name: str, inputs: Inputs, names: Sequence[str], form: Form) -> Embeddings:
    """Vectors by the signature `name`, which has the output `embedding`, of n rows with the names given."""
    vectors: Floats = np.zeros((0, model.pin.width), np.float32)
    if names:
        vectors = (await model.rows(name, inputs))[signature.EMBEDDING]
    return parts.formed(model.pin, vectors, names, form)
