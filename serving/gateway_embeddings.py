"""POST /v1/embeddings in OpenAI's form, and POST /v1/rank: items in, vectors or an order out.

A route of the gateway on the way SavedModel -> server -> [gateway] -> application. The form is that of
https://platform.openai.com/docs/api-reference/embeddings, with images beside texts, `on_error`, and in the answer
`space_id`, `version` and `failures`. docs/gateway.md has both routes for readers.
"""

import asyncio
import base64
from collections.abc import Sequence

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving import json_writer
from serving.gateway_body import Fields, Limits, read_json
from serving.gateway_errors import Refusal, as_json, invalid
from serving.gateway_items import Item, read_item, read_items
from serving.gateway_upstream import Embedded, Floats, Upstream
from vit22b.described import Description

_EMBED = ("input", "model", "dimensions", "encoding_format", "on_error", "user")
_RANK = ("query", "items", "model", "top", "user")
_FORMATS = ("float", "base64")
_ON_ERROR = ("raise", "skip")


class EmbeddingRoutes:
    """The two routes.

    Args:
        upstream: the model.
        limits: of a request.
    """

    def __init__(self, upstream: Upstream, limits: Limits):
        self._upstream, self._limits = upstream, limits

    def routes(self) -> list[Route]:
        """The routes, for the application."""
        return [
            Route("/v1/embeddings", self.embed, methods=["POST"]),
            Route("/v1/rank", self.rank, methods=["POST"]),
        ]

    async def embed(self, request: Request) -> Response:
        """Vectors of texts and images."""
        fields = Fields(await read_json(request, self._limits.body_bytes), _EMBED)
        description = await self._upstream.description()
        fields.check_model(self._upstream.model)
        dimensions = fields.whole("dimensions", 1, description.manifest.config.image.embedding)
        encoding, on_error = fields.choice("encoding_format", _FORMATS), fields.choice("on_error", _ON_ERROR)
        items = read_items(fields.required("input"), "input", self._limits.items)
        found = await self._upstream.embed(items, dimensions)
        request.state.visit.note(items, found.failed, found.version)
        if found.failures and on_error == "raise":
            raise bad_items(found, "input", isinstance(fields.get("input"), list))
        kept = [index for index in range(len(items)) if index not in found.failed]
        data = [
            {"object": "embedding", "index": index, "embedding": written}
            for index, written in zip(kept, _written(found.vectors[kept], encoding), strict=True)
        ]
        tokens = await asyncio.to_thread(_tokens, [items[index] for index in kept], description)
        return JSONResponse(
            {
                "object": "list",
                "data": data,
                "model": self._upstream.model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                "failures": as_json(found.failures),
                **found.origin(),
            }
        )

    async def rank(self, request: Request) -> Response:
        """Items in the order of their cosine with a query, which is a text or an image."""
        fields = Fields(await read_json(request, self._limits.body_bytes), _RANK)
        fields.check_model(self._upstream.model)
        query = read_item(fields.required("query"), "query")
        items = read_items(fields.required("items"), "items", self._limits.items)
        top = fields.whole("top", 1, self._limits.items) or len(items)
        # Together with the items, so that all lie in one space.
        found = await self._upstream.embed([*items, query])
        request.state.visit.note([*items, query], found.failed, found.version)
        failures = [failure for failure in found.failures if failure.index < len(items)]
        if len(failures) < len(found.failures):
            raise invalid(f"query: {found.failures[-1].reason}", "query", "bad_image")
        scores = found.vectors[:-1] @ found.vectors[-1]
        order = [index for index in np.argsort(-scores, kind="stable").tolist() if index not in found.failed]
        data = [{"object": "rank", "index": index, "score": float(scores[index])} for index in order[:top]]
        answer = {"object": "list", "data": data, "model": self._upstream.model, "failures": as_json(failures)}
        return JSONResponse(answer | found.origin())


def bad_items(found: Embedded, param: str, several: bool) -> Refusal:
    """The refusal of a request for the items that failed."""
    first, *others = found.failures
    where = f"{param}[{first.index}]" if several else param
    more = f"; and {len(others)} more" if others else ""
    text = f"{where}: {first.reason}{more}. Leave out what is named, or ask for the others with on_error 'skip'"
    return Refusal(400, text, "bad_image", param=where, failures=found.failures)


def _written(vectors: Floats, encoding: str) -> list[str] | list[list[float]]:
    """Every vector as JSON has it: numbers, or the base64 of little-endian float32."""
    if encoding == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    # The fewest digits that bring a float32 back, which is half of what Python prints of it as a double.
    numbers = list(map(float, json_writer.elements(vectors)))
    width = vectors.shape[1]
    return [numbers[start : start + width] for start in range(0, len(numbers), width)]


def _tokens(items: Sequence[Item], description: Description) -> int:
    """What the towers read: the tokens of texts without padding, and the patches of images."""
    image = description.manifest.config.image
    patches = (description.manifest.preprocess.resolution // image.patch) ** 2
    texts = [item for item in items if isinstance(item, str)]
    tokens = (len(items) - len(texts)) * patches
    if texts and description.tokenizer is not None:
        tokens += int((description.tokenizer.encode(texts) != description.tokenizer.pad_id).sum())
    return tokens
