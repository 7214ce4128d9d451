"""The clients: images and texts in, vectors and labels out, over gRPC.

The end of the walk image -> batch -> state -> checkpoint -> SavedModel -> server -> client. An address and a model's
name suffice: what else there is to know the model says itself, by its `describe` signature. Loads neither JAX nor
TensorFlow.
"""

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from vit22b import waits
from vit22b.batches import Inputs
from vit22b.channel import Addresses, ChannelOptions, Tls
from vit22b.described import Description, VersionState
from vit22b.embeddings import Classification, ClassVectors, Embeddings, Features
from vit22b.encodings import Encoding, Form
from vit22b.parts import OnError
from vit22b.retry import Retry
from vit22b.served import Images, ServedModel
from vit22b.sources import Image
from vit22b.tensors import Array
from vit22b.transport import TIMEOUT, CallOptions, Transport
from vit22b.waits import LoopWaits, ThreadWaits, Waits


class _Connected:
    """What both clients are made of; see Client for the arguments."""

    _waits: Waits

    def __init__(
        self,
        address: str | Sequence[str] = "localhost:8500",
        model: str = "vit22b",
        *,
        version: int | None = None,
        timeout: float = TIMEOUT,
        retry: Retry | None = None,
        in_flight: int = 4,
        tls: Tls | None = None,
        api_key: str | None = None,
        hedge_after: float | None = None,
        keep_alive: float | None = 330.0,
        balance: bool | None = None,
        allow_urls: bool = False,
    ) -> None:
        if not model:
            raise ValueError("the model's name is empty; give the name that the server was started with")
        if in_flight < 1:
            raise ValueError(f"in_flight is {in_flight}; expected at least 1")
        addresses = Addresses.of(address)
        self.address, self.model = str(addresses), model
        self._transport = Transport(
            addresses,
            model,
            channel=ChannelOptions(tls, keep_alive, len(addresses) > 1 if balance is None else balance),
            options=CallOptions(timeout, retry or Retry(), hedge_after, api_key),
            waits=self._waits,
        )
        self._served = ServedModel(self._transport, version, in_flight, allow_urls=allow_urls)


class Client(_Connected):
    """A served model.

    The first answer pins the model's version. Should the server unload it in the middle of a call, the call goes on
    with the version that is served now if that has the same space, and begins anew if it has another one, so that the
    vectors of one call are always of one space. Images that come once, from an iterator, cannot begin anew: the call
    ends with a SpaceChangedError. Threads may share a client.

    Args:
        address: host:port of a TensorFlow Serving server, or of one that speaks its protocol; several in a list, or
            with commas between them; unix:PATH too.
        model: the name that it is served under.
        version: a version to stay with; None for the latest.
        timeout: seconds that a request may take, its retries included.
        retry: when a request is sent again.
        in_flight: requests of a call that are under way at once; the server batches them together where it can.
        tls: certificates; None for a plain connection.
        api_key: that the server asks for, if it does.
        hedge_after: seconds after which a request without an answer is sent once more, up to three times; None for
            never. With it, a server that is slow once is not waited for, at the price of some more requests.
        keep_alive: seconds without traffic after which the connection is tested; None for never. Servers allow a test
            every 300 s by default, and end the connection of a client that tests more often.
        balance: whether requests go to the servers in turn, past those that say of themselves that they do not serve.
            None does so with several addresses. True does with one name of several servers too.
        allow_urls: whether an image may be an address on the web, which this process then fetches. Leave it off for
            what strangers send: an address can lead into your own network.

    Raises:
        ValueError: an argument that cannot be right. No connection is made yet.
    """

    _waits = ThreadWaits()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Ctrl-C may have come while gRPC held one of its locks, which closing would wait for, for ever.
        if not _is_interrupt(error):
            self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def describe(self) -> Description:
        """What the model says of itself; asked once, then remembered.

        Raises:
            VitError: no answer, or a model that vit22b did not export.
        """
        return waits.run(self._served.describe())

    def versions(self) -> tuple[VersionState, ...]:
        """The states of the model's versions, in the server's order: the highest first.

        Raises:
            VitError: no answer; NotServedError where the server never had the model.
        """
        return waits.run(self._served.versions())

    def embed_images(
        self,
        images: Iterable[Image],
        *,
        on_error: OnError = "raise",
        dimensions: int | None = None,
        encoding: Encoding = "float32",
    ) -> Embeddings:
        """Vectors of images.

        Args:
            images: each is a path, the bytes of a file in JPEG, PNG, WebP, GIF or BMP, a binary file object, a Pillow
                image, or a uint8 array [h, w], [h, w, 3] or [h, w, 4]; where allow_urls says so also an address.
            on_error: what an image that cannot be read or decoded does. "raise": an ImageError that names it. "skip":
                its row is left out. "return": its row is zeros. By the latter two the result's `failures` name it, and
                all others are embedded.
            dimensions: how many of the vectors' numbers are wanted; they are scaled to unit length again. None for all.
            encoding: of the numbers; see vit22b.encodings.encode.

        Raises:
            ValueError: something that is no image, more dimensions than the model has, or another encoding.
            VitError: no answer, or by on_error="raise" a bad image.
        """
        return waits.run(self._served.embed_images(images, on_error, Form(dimensions, encoding)))

    def stream_images(
        self,
        images: Iterable[Image],
        *,
        on_error: OnError = "raise",
        dimensions: int | None = None,
        encoding: Encoding = "float32",
    ) -> Iterator[Embeddings]:
        """Vectors of any number of images, part by part: those of one request each, in order.

        A few requests are under way at once, and no more images are read than these hold. All parts are of one space.

        Args:
            images, on_error, dimensions, encoding: as in embed_images. By "raise" the parts before a bad image have
                been given out.

        Raises:
            ValueError: as embed_images.
            VitError: as embed_images; SpaceChangedError where the model has been replaced by one of another space.
        """
        return waits.iterate(self._served.stream_images(images, on_error, Form(dimensions, encoding)))

    def embed_pixels(
        self, pixels: npt.NDArray[np.uint8], *, dimensions: int | None = None, encoding: Encoding = "float32"
    ) -> Embeddings:
        """Vectors of decoded images.

        Args:
            pixels: uint8 [n, r, r, 3], r the resolution in `describe().manifest.preprocess`.
            dimensions, encoding: as in embed_images.

        Raises:
            ValueError: pixels of another dtype or shape.
            VitError: no answer.
        """
        return waits.run(self._served.embed_pixels(pixels, Form(dimensions, encoding)))

    def embed_texts(
        self, texts: Sequence[str], *, dimensions: int | None = None, encoding: Encoding = "float32"
    ) -> Embeddings:
        """Vectors of texts, in the space of the images.

        Raises:
            ValueError: a bare string.
            VitError: no answer, or a model without a text tower.
        """
        return waits.run(self._served.embed_texts(texts, Form(dimensions, encoding)))

    def features(
        self,
        images: Iterable[Image],
        *,
        tokens: bool = False,
        layers: Sequence[int] = (),
        on_error: OnError = "raise",
    ) -> Features:
        """What the image tower says of images: the pooled features, and those of each patch.

        Args:
            images, on_error: as in embed_images.
            tokens: whether the patches' features behind the last norm are wanted: N times as much as the pooled.
            layers: blocks whose tokens are wanted too, of those that the model was exported with.

        Raises:
            ValueError: no images, or a layer that the model does not answer.
            VitError: as embed_images; RequestError for a model that was exported before there was `features_each`.
        """
        return waits.run(self._served.features(images, tokens, layers, on_error))

    def embed_classes(self, classes: Sequence[str], templates: Sequence[str] = ("general",)) -> ClassVectors:
        """Vectors of classes that are given by name only, to classify with again and again.

        Args:
            classes: k names.
            templates: texts with one `{}`, or names of sets of them (see vit22b.prompts).

        Raises:
            ValueError: an empty class list, a class twice, or a text that is no template.
            VitError: as embed_texts.
        """
        return waits.run(self._served.embed_classes(classes, templates))

    def classify(
        self,
        images: Iterable[Image],
        classes: Sequence[str] | ClassVectors,
        templates: Sequence[str] = ("general",),
        *,
        on_error: OnError = "raise",
    ) -> Classification:
        """Scores images against classes (zero-shot).

        Args:
            images, on_error: as in embed_images.
            classes: k names, or what embed_classes has made of them.
            templates: of names, as in embed_classes.

        Raises:
            ValueError: as embed_images and embed_classes.
            VitError: as embed_images and embed_texts; SpaceError for classes that were embedded in another space.
        """
        return waits.run(self._served.classify(images, classes, templates, on_error))

    def predict(self, name: str, inputs: Inputs) -> dict[str, Array]:
        """Any signature of the model, over any number of rows.

        Args:
            name: of the signature, for instance "features" or "logits".
            inputs: [n, ...] by input name, arrays or lists of bytes.

        Returns:
            The signature's outputs by name, [n, ...] each.

        Raises:
            ValueError: no rows, or inputs of other names, dtypes or shapes than the signature's.
            VitError: no answer; RequestError where the model has no such signature or refuses a row.
        """
        return waits.run(self._served.predict(name, inputs))


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether an error is Ctrl-C, or what somebody made of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


class AsyncClient(_Connected):
    """The same as Client, arguments and methods, for an event loop of asyncio. Images may come asynchronously too.

    Paths and addresses are read in threads, file objects as they are given. A call whose task is cancelled is given
    up, and the server told so.
    """

    _waits = LoopWaits()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """See Client.close."""
        self._transport.close()

    async def describe(self) -> Description:
        """See Client.describe."""
        return await self._served.describe()

    async def versions(self) -> tuple[VersionState, ...]:
        """See Client.versions."""
        return await self._served.versions()

    async def embed_images(
        self,
        images: Images,
        *,
        on_error: OnError = "raise",
        dimensions: int | None = None,
        encoding: Encoding = "float32",
    ) -> Embeddings:
        """See Client.embed_images."""
        return await self._served.embed_images(images, on_error, Form(dimensions, encoding))

    async def stream_images(
        self,
        images: Images,
        *,
        on_error: OnError = "raise",
        dimensions: int | None = None,
        encoding: Encoding = "float32",
    ) -> AsyncIterator[Embeddings]:
        """See Client.stream_images."""
        stream = self._served.stream_images(images, on_error, Form(dimensions, encoding))
        async with contextlib.aclosing(stream):
            async for part in stream:
                yield part

    async def embed_pixels(
        self, pixels: npt.NDArray[np.uint8], *, dimensions: int | None = None, encoding: Encoding = "float32"
    ) -> Embeddings:
        """See Client.embed_pixels."""
        return await self._served.embed_pixels(pixels, Form(dimensions, encoding))

    async def embed_texts(
        self, texts: Sequence[str], *, dimensions: int | None = None, encoding: Encoding = "float32"
    ) -> Embeddings:
        """See Client.embed_texts."""
        return await self._served.embed_texts(texts, Form(dimensions, encoding))

    async def features(
        self, images: Images, *, tokens: bool = False, layers: Sequence[int] = (), on_error: OnError = "raise"
    ) -> Features:
        """See Client.features."""
        return await self._served.features(images, tokens, layers, on_error)

    async def embed_classes(self, classes: Sequence[str], templates: Sequence[str] = ("general",)) -> ClassVectors:
        """See Client.embed_classes."""
        return await self._served.embed_classes(classes, templates)

    async def classify(
        self,
        images: Images,
        classes: Sequence[str] | ClassVectors,
        templates: Sequence[str] = ("general",),
        *,
        on_error: OnError = "raise",
    ) -> Classification:
        """See Client.classify."""
        return await self._served.classify(images, classes, templates, on_error)

    async def predict(self, name: str, inputs: Inputs) -> dict[str, Array]:
        """See Client.predict."""
        return await self._served.predict(name, inputs)
