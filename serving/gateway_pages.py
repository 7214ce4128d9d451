"""What the gateway shows: models, whether it is alive and ready, metrics, the API's description, the page for people.

Routes of the gateway on the way SavedModel -> server -> [gateway] -> application. All but /v1/models are open to those
without a key: a probe has none, and the page has to be there before one can be typed in.
"""

import datetime
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from serving import gateway_metrics
from serving.gateway_errors import Refusal
from serving.gateway_metrics import Metrics
from serving.gateway_upstream import Upstream

WEB = Path(__file__).with_name("web")
# The page takes nothing from elsewhere and runs nothing but its own files; blob: are the pictures that are shown.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
_INDEX = "index.html"
_FILES = ("page.css", "page.js", "api.js", "results.js", "icon.svg")


class Pages:
    """The routes.

    Args:
        upstream: the model that is shown.
        metrics: that are shown.
    """

    def __init__(self, upstream: Upstream, metrics: Metrics):
        self._upstream, self._metrics = upstream, metrics

    def routes(self) -> list[Route]:
        """The routes, for the application."""
        return [
            Route("/v1/models", self.models),
            Route("/v1/models/{model}", self.model),
            Route("/healthz", self.alive),
            Route("/readyz", self.ready),
            Route("/metrics", self.metrics),
            Route("/openapi.json", _file("openapi.json")),
            Route("/", _file(_INDEX), include_in_schema=False),
            *(Route(f"/{name}", _file(name), include_in_schema=False) for name in _FILES),
        ]

    async def models(self, request: Request) -> Response:  # noqa: ARG002 - a route's signature
        """The one model, as a list in OpenAI's form."""
        return JSONResponse({"object": "list", "data": [await self._told()]})

    async def model(self, request: Request) -> Response:
        """The model, by its name."""
        name = request.path_params["model"]
        if name != self._upstream.model:
            text = f"there is no model {name[:64]!r} here; this gateway has {self._upstream.model!r}"
            raise Refusal(404, text, "model_not_found", param="model")
        return JSONResponse(await self._told())

    async def alive(self, request: Request) -> Response:  # noqa: ARG002
        """200 for as long as the gateway answers at all."""
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        """200 when the model is served."""
        await self._upstream.check_ready()
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        """The metrics, for Prometheus."""
        return Response(self._metrics.text(), headers={"Content-Type": gateway_metrics.CONTENT_TYPE})

    async def _told(self) -> dict[str, object]:
        """What is said of the model: OpenAI's fields, and ours."""
        description = await self._upstream.description()
        manifest = description.manifest
        exported = datetime.datetime.fromisoformat(manifest.exported_on).replace(tzinfo=datetime.UTC)
        return {
            "id": self._upstream.model,
            "object": "model",
            "created": int(exported.timestamp()),
            "owned_by": "vit22b",
            "version": description.version,
            "space_id": manifest.space_id,
            "dimensions": manifest.config.image.embedding,
            "text": description.tokenizer is not None,
        }


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    """A route that answers with a file of the page."""

    async def answer(request: Request) -> Response:  # noqa: ARG001
        return FileResponse(WEB / name, headers=_PAGE_HEADERS)

    return answer
