"""The gateway's application: its routes behind its door, and errors in one form.

On the way SavedModel -> server -> [gateway] -> application, between the port that gateway.py opens and the modules that
answer.
"""

import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serving.gateway_banks import Banks
from serving.gateway_body import Limits
from serving.gateway_classes import ClassRoutes
from serving.gateway_classify import ClassifyRoute
from serving.gateway_door import Door
from serving.gateway_embeddings import EmbeddingRoutes
from serving.gateway_errors import Refusal, from_client
from serving.gateway_label_sets import LabelSets
from serving.gateway_metrics import Metrics
from serving.gateway_pages import Pages
from serving.gateway_upstream import Upstream
from serving.gateway_visit import HUNG_UP, Lines
from serving.keys import KeyFile
from vit22b.client import AsyncClient
from vit22b.errors import VitError
from vit22b.transport import TIMEOUT

_CODES = {404: "not_found", 405: "method_not_allowed"}

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """How an application answers.

    Attributes:
        limits: of a request.
        max_pending: requests of the API under way at once.
        timeout: seconds that a request may take.
        classes_dir: where label sets are kept; None for none.
        keys: that callers need one of; None for an open door.
        lines: where the log of requests goes; None for nowhere.
    """

    limits: Limits = dataclasses.field(default_factory=Limits)
    max_pending: int = 32
    timeout: float = TIMEOUT
    classes_dir: Path | None = None
    keys: KeyFile | None = None
    lines: Lines | None = None


def application(client: AsyncClient, options: Options, version: int | None = None) -> Door:
    """The application, for an ASGI server.

    Args:
        client: of the model's server; closed when the ASGI server shuts down.
        options: how it answers.
        version: that the client stays with; None where it takes the latest.

    Raises:
        OSError: the directory of label sets cannot be made.
    """
    metrics = Metrics()
    sets = None if options.classes_dir is None else LabelSets(options.classes_dir)
    upstream = Upstream(client, version)
    banks = Banks(upstream, sets, metrics)
    routes = [
        *EmbeddingRoutes(upstream, options.limits).routes(),
        *ClassifyRoute(upstream.model, banks, sets, options.limits).routes(),
        *ClassRoutes(banks, sets, options.limits).routes(),
        *Pages(upstream, metrics).routes(),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
        async with client:
            yield

    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=_handlers(metrics))
    # A redirect would name the host that the caller says this is.
    app.router.redirect_slashes = False
    return Door(
        app,
        routes,
        metrics=metrics,
        lines=options.lines,
        keys=options.keys,
        max_pending=options.max_pending,
        timeout=options.timeout,
    )


def _handlers(metrics: Metrics) -> dict[Any, Callable[[Request, Any], Any]]:
    """What becomes of each kind of exception."""

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, VitError)
        refusal = from_client(error)
        metrics.upstream_errors.labels(refusal.code).inc()
        logger.log(logging.INFO if refusal.status < 500 else logging.WARNING, "%s", error)
        return _refused(request, refusal)

    return {
        Refusal: _refused,
        VitError: failed,
        HTTPException: _not_routed,
        ClientDisconnect: _hung_up,
        Exception: _defect,
    }


def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    request.state.visit.error = refusal.code
    return refusal.response()


def _not_routed(request: Request, error: Exception) -> Response:
    """For a path or a method that no route has."""
    assert isinstance(error, HTTPException)
    text = f"{request.method[:64]} {request.url.path[:64]}: {error.detail}; /openapi.json lists what there is"
    code = _CODES.get(error.status_code, "invalid_request")
    return _refused(request, Refusal(error.status_code, text, code, headers=error.headers))


def _hung_up(request: Request, error: Exception) -> Response:  # noqa: ARG001 - a handler's signature
    """For a caller who is gone; nobody sees it."""
    return Response(status_code=HUNG_UP)


def _defect(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """For a defect of ours; uvicorn logs it with its traceback."""
    logger.error("Request %s met a defect:", request.state.visit.id)
    text = "the gateway failed at this request; its log has the reason, under the id in the header x-request-id"
    return _refused(request, Refusal(500, text, "internal_error"))
