"""The client: images and texts in, vectors and labels out, over gRPC.

The end of the walk image -> batch -> state -> checkpoint -> SavedModel -> server -> client. An address and a model's
name suffice: what else there is to know the model says itself, by its `describe` signature. Loads neither JAX nor
TensorFlow.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from vit22b import errors, signature, wire_pb2
from vit22b.batches import Image, Inputs, named_images
from vit22b.embeddings import Classification, Embeddings
from vit22b.pinned import Description, OnError, PinnedModel, describe
from vit22b.prompts import class_bank, find_templates, prompts
from vit22b.tensors import Array, model_spec
from vit22b.transport import Retry, Transport

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class VersionState:
    """A version of a model on the server.

    Attributes:
        version: its number.
        state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
        message: why it failed, if it did.
    """

    version: int
    state: str
    message: str


class Client:
    """A served model.

    The first answer pins the model's version. Should the server unload it in the middle of a call, the call begins anew
    with the version that is served now, so that the vectors of one call are always of one version. Threads may share a
    client.

    Args:
        address: host:port of a TensorFlow Serving server, or of one that speaks its protocol; unix:PATH too.
        model: the name that it is served under.
        version: a version to stay with; None for the latest.
        timeout: seconds that a request may take, its retries included.
        retry: when a request is sent again.
        in_flight: requests under way at once; the server batches them together where it can.

    Raises:
        ValueError: an argument that cannot be right. No connection is made yet.
    """

    def __init__(
        self,
        address: str = "localhost:8500",
        model: str = "vit22b",
        *,
        version: int | None = None,
        timeout: float = 60.0,
        retry: Retry | None = None,
        in_flight: int = 4,
    ) -> None:
        if not model:
            raise ValueError("the model's name is empty; give the name that the server was started with")
        if in_flight < 1:
            raise ValueError(f"in_flight is {in_flight}; expected at least 1")
        self.address, self.model = address, model
        self._version, self._in_flight = version, in_flight
        self._transport = Transport(address, model, timeout=timeout, retry=retry or Retry())
        self._model: PinnedModel | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def describe(self) -> Description:
        """What the model says of itself; asked once, then remembered.

        Raises:
            VitError: no answer, or a model that vit22b did not export.
        """
        return self._pin().description

    def versions(self) -> tuple[VersionState, ...]:
        """The states of the model's versions, in the server's order: the highest first.

        Raises:
            VitError: no answer; NotServedError where the server never had the model.
        """
        request = wire_pb2.GetModelStatusRequest(model_spec=model_spec(self.model, None))
        state_name = wire_pb2.ModelVersionStatus.State.Name
        return tuple(
            VersionState(status.version, state_name(status.state), status.status.error_message)
            for status in self._transport.status(request).result().model_version_status
        )

    def embed_images(self, images: Iterable[Image], *, on_error: OnError = "raise") -> Embeddings:
        """Vectors of images.

        Args:
            images: paths, or bytes of files in JPEG, PNG, WebP, GIF or BMP.
            on_error: what an image that cannot be read or decoded does. "raise": an ImageError that names it. "skip":
                its row is left out. "return": its row is zeros. By the latter two the result's `failures` name it, and
                all others are embedded.

        Raises:
            VitError: no answer, or by on_error="raise" a bad image.
        """
        named = named_images(images)
        return self._pinned(lambda model: model.embed_images(named, on_error))

    def embed_pixels(self, pixels: npt.NDArray[np.uint8]) -> Embeddings:
        """Vectors of decoded images.

        Args:
            pixels: uint8 [n, r, r, 3], r the resolution in `describe().manifest.preprocess`.

        Raises:
            ValueError: pixels of another dtype or shape.
            VitError: no answer.
        """
        names = [f"image {index}" for index in range(len(pixels))]
        inputs = {signature.PIXELS: pixels}
        return self._pinned(lambda model: model.embed_rows(signature.EMBED_PIXELS, inputs, names))

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of texts, in the space of the images.

        Raises:
            ValueError: a bare string.
            VitError: no answer, or a model without a text tower.
        """
        return self._pinned(lambda model: model.embed_texts(texts))

    def classify(
        self,
        images: Iterable[Image],
        classes: Sequence[str],
        templates: Sequence[str] = ("general",),
        *,
        on_error: OnError = "raise",
    ) -> Classification:
        """Scores images against classes that are given by name only (zero-shot).

        Args:
            images: as in embed_images.
            classes: k names.
            templates: texts with one `{}`, or names of sets of them (see vit22b.prompts).
            on_error: as in embed_images.

        Raises:
            ValueError: an empty class list, a class twice, or a text that is no template.
            VitError: as embed_images and embed_texts.
        """
        rows = prompts(classes, find_templates(templates))
        named = named_images(images)

        def work(model: PinnedModel) -> Classification:
            texts = model.embed_texts([text for row in rows for text in row]).vectors
            bank = class_bank(texts.reshape(len(rows), len(rows[0]), -1))
            found = model.embed_images(named, on_error)
            return Classification(found.vectors @ bank.T, tuple(classes), found)

        return self._pinned(work)

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
        return self._pinned(lambda model: model.rows(name, inputs))

    def _pin(self) -> PinnedModel:
        if self._model is None:
            description = describe(self._transport, self._version)
            self._model = PinnedModel(self._transport, description, self._in_flight)
        return self._model

    def _pinned(self, work: Callable[[PinnedModel], Result]) -> Result:
        model = self._pin()
        try:
            return work(model)
        except errors.NotServedError:
            # The version was unloaded since it was pinned. If there is no other, pinning says so.
            self._model = None
            return work(self._pin())
