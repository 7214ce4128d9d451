"""The served model as the gateway sees it: items in, vectors of one space out.

Between the gateway's routes and vit22b's client on the way SavedModel -> server -> [gateway] -> application. The client
pins a version, and takes the next one when the server unloads it. That may happen between two calls for one request:
what they answer is compared, and asked for again where it lies in two spaces.
"""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.gateway_errors import RETRY_AFTER, Refusal, invalid
from serving.gateway_items import Flaw, Item
from vit22b.client import AsyncClient
from vit22b.described import Description
from vit22b.embeddings import ClassVectors, Embeddings
from vit22b.errors import Failure, VitError

Floats = npt.NDArray[np.float32]

ATTEMPTS = 3  # a version that goes is rare; one more goes while the first attempt is repeated once in a blue moon
_AVAILABLE = "AVAILABLE"
_READY_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Items that were embedded.

    Attributes:
        vectors: float32 [n, D], of unit length; zeros in the rows of failures.
        failures: the items that have no vector, by their index.
        space_id: the space that the vectors lie in.
        version: the model's version that answered.
    """

    vectors: Floats
    failures: tuple[Failure, ...]
    space_id: str
    version: int

    @property
    def failed(self) -> frozenset[int]:
        """The indices of the failures."""
        return frozenset(failure.index for failure in self.failures)

    def origin(self) -> dict[str, Any]:
        """What an answer says of its vectors."""
        return {"space_id": self.space_id, "version": self.version}


class Upstream:
    """The served model.

    Args:
        client: of it.
        version: that the client stays with; None where it takes the latest.
    """

    def __init__(self, client: AsyncClient, version: int | None = None):
        self._client, self._version = client, version

    @property
    def model(self) -> str:
        """The name that the model is served under."""
        return self._client.model

    async def description(self) -> Description:
        """What the model says of itself.

        Raises:
            VitError: no answer.
        """
        return await self._client.describe()

    async def embed(self, items: Sequence[Item], dimensions: int | None = None) -> Embedded:
        """Vectors of texts and images.

        Args:
            items: n of them.
            dimensions: D, the first of the model's; all of them if not given.

        Raises:
            VitError: no answer, or texts for a model without a text tower.
            Refusal: the versions changed all the while, or the one that is served now has fewer dimensions.
        """
        for _ in range(ATTEMPTS):
            try:
                parts = await self._parts(items, dimensions)
            except ValueError as error:
                if dimensions is None:
                    raise
                raise invalid(str(error), "dimensions") from error
            if len({found.space_id for _, found in parts}) <= 1:
                return await self._join(items, parts, dimensions)
        raise changed()

    async def _parts(self, items: Sequence[Item], dimensions: int | None) -> list[tuple[list[int], Embeddings]]:
        """The images' vectors and the texts', each with the items' indices."""
        images = [index for index, item in enumerate(items) if isinstance(item, bytes)]
        texts = [index for index, item in enumerate(items) if isinstance(item, str)]
        parts = []
        if images:
            encoded = [items[index] for index in images]
            parts.append((images, await self._client.embed_images(encoded, on_error="return", dimensions=dimensions)))
        if texts:
            written = [item for item in items if isinstance(item, str)]
            parts.append((texts, await self._client.embed_texts(written, dimensions=dimensions)))
        return parts

    async def _join(
        self, items: Sequence[Item], parts: Sequence[tuple[list[int], Embeddings]], dimensions: int | None
    ) -> Embedded:
        """Parts of one space, as one."""
        if parts:
            _, first = parts[0]
            width, space_id, version = first.dimensions, first.space_id, first.version
        else:  # there is no item that has a vector
            about = await self._client.describe()
            width = dimensions or about.manifest.config.image.embedding
            space_id, version = about.manifest.space_id, about.version
        vectors = np.zeros((len(items), width), np.float32)
        failures = [
            Failure(index, f"item {index}", item.reason) for index, item in enumerate(items) if isinstance(item, Flaw)
        ]
        for places, found in parts:
            vectors[places] = found.vectors
            failures.extend(dataclasses.replace(failure, index=places[failure.index]) for failure in found.failures)
        return Embedded(vectors, tuple(sorted(failures, key=lambda failure: failure.index)), space_id, version)

    async def embed_classes(self, classes: Sequence[str], templates: Sequence[str]) -> ClassVectors:
        """Vectors of classes.

        Args:
            classes, templates: that vit22b.prompts takes.

        Raises:
            VitError: no answer, or a model without a text tower.
            Refusal: a class's vector points nowhere.
        """
        try:
            return await self._client.embed_classes(classes, templates)
        except ValueError as error:
            raise Refusal(502, f"the model makes nothing of the classes: {error}", "upstream_failed") from error

    async def check_ready(self) -> None:
        """Raises a Refusal (503) unless the model answers that it is served."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                versions = await self._client.versions()
        except (VitError, TimeoutError) as error:
            reason = error.message if isinstance(error, VitError) else f"no answer in {_READY_SECONDS:g} seconds"
            raise Refusal(503, f"the model's server: {reason}", "not_ready") from error
        served = [state.version for state in versions if state.state == _AVAILABLE]
        if not any(self._version in (None, version) for version in served):
            asked = "" if self._version is None else f"; version {self._version} is asked for"
            raise Refusal(503, f"the versions of {self.model} that are served: {served or 'none'}{asked}", "not_ready")


def changed() -> Refusal:
    """The refusal of a request during which the model's version changed again and again."""
    return Refusal(
        503,
        "the model's version changed in the middle of the request, and vectors of two spaces do not mix; ask again",
        "space_changed",
        headers={"Retry-After": str(RETRY_AFTER)},
    )
