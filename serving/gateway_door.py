"""The door of the gateway: what every request passes, whatever it asks for.

The first hop behind the port on the way SavedModel -> server -> [gateway] -> application, as ASGI middleware
(https://asgi.readthedocs.io). A request gets an id, shows its key, finds a place among those under way, has a deadline,
and is logged and counted. One whose caller has hung up ends, and with it what was asked of the model.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.gateway_errors import Refusal, invalid, too_busy
from serving.gateway_metrics import Metrics
from serving.gateway_visit import Lines, Register, Visit
from serving.keys import KeyFile
from vit22b.transport import TIMEOUT

_API = "/v1/"
_DEADLINE = "x-request-timeout"
_ID = "x-request-id"
_ID_FORM = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_OTHER = "(none)"


class Door:
    """Lets requests through to the application.

    Args:
        app: behind it.
        routes: of the app; requests are counted by their patterns.
        metrics: count the requests.
        lines: the log; None for none.
        keys: one of which every request of the API has to come with; None for an open door.
        max_pending: requests of the API that are under way at once.
        timeout: seconds that a request may take; a caller may ask for less by the header x-request-timeout.

    Attributes:
        routes: as given.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[Route],
        *,
        metrics: Metrics,
        lines: Lines | None = None,
        keys: KeyFile | None = None,
        max_pending: int = 32,
        timeout: float = TIMEOUT,
    ):
        self.routes = routes
        self._app, self._metrics, self._register = app, metrics, Register(metrics, lines)
        self._keys, self._max_pending, self._timeout = keys, max_pending, timeout
        self._pending = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        visit = self._visit(scope)
        scope.setdefault("state", {})["visit"] = visit
        answer = _Answer(send, visit.id)
        try:
            if scope["path"].startswith(_API):
                await self._let_in(visit, scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except Refusal as refusal:
            visit.error = refusal.code
            if not answer.status:
                await refusal.response()(scope, receive, answer)
        finally:
            self._register.end(visit, answer.status, time.perf_counter() - began)

    async def _let_in(self, visit: Visit, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        """Has a request of the API answered, once it has shown its key and found a place."""
        headers = Headers(scope=scope)
        visit.user = self._holder(headers)
        seconds = _deadline(headers, self._timeout)
        if self._pending >= self._max_pending:
            text = f"{self._pending} requests are under way, which is as many as this gateway takes; try again later"
            raise too_busy(text, "too_many_requests")
        self._pending += 1
        self._metrics.pending.set(self._pending)
        caller = _Caller(receive)
        try:
            await self._answer(scope, caller, answer, seconds)
        finally:
            visit.hung_up = caller.gone
            caller.leave()
            self._pending -= 1
            self._metrics.pending.set(self._pending)

    async def _answer(self, scope: Scope, caller: "_Caller", answer: "_Answer", seconds: float) -> None:
        """Lets the application answer for as long as there is time and a caller."""
        try:
            async with asyncio.timeout(seconds) as limit:
                if not _has_body(Headers(scope=scope)):
                    caller.expect_no_body(limit)
                await self._app(scope, caller.watched(limit), answer)
        except TimeoutError as error:
            if not limit.expired():
                raise
            if caller.gone:
                return
            if caller.heard:
                raise Refusal(504, f"there was no answer in {seconds:g} seconds", "timeout") from error
            raise Refusal(408, f"the body did not come in {seconds:g} seconds", "body_timeout") from error

    def _visit(self, scope: Scope) -> Visit:
        given = Headers(scope=scope).get(_ID, "")
        method = scope["method"]
        return Visit(
            id=given if _ID_FORM.fullmatch(given) else uuid.uuid4().hex,
            method=method if method in _METHODS else _OTHER,
            path=scope["path"],
            route=next((route.path for route in self.routes if route.matches(scope)[0] is not Match.NONE), _OTHER),
            peer=(scope.get("client") or ("",))[0],
        )

    def _holder(self, headers: Headers) -> str | None:
        """Whose key the request came with; None at an open door.

        Raises:
            Refusal: it has no key, or nobody's.
        """
        if self._keys is None:
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
        holder = self._keys.holder(key) if key else None
        if holder is None:
            problem = "the API key is none of this gateway's" if key else "this gateway needs an API key"
            text = f"{problem}; send one as authorization: Bearer KEY"
            raise Refusal(401, text, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return holder


class _Answer:
    """What is sent, with the headers that every answer has."""

    def __init__(self, send: Send, visit_id: str):
        self.status = 0
        self._send, self._id = send, visit_id

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[_ID] = self._id
            headers["x-content-type-options"] = "nosniff"
            headers.setdefault("cache-control", "no-store")
        await self._send(message)


class _Caller:
    """What comes in; once the body is whole, the only thing left to come is that the caller hangs up."""

    def __init__(self, receive: Receive):
        self.heard = False  # whether the whole body is here
        self.gone = False
        self._receive = receive
        self._empty = False  # whether there is no body, which the application has not been told yet
        self._watch: asyncio.Task[None] | None = None

    def expect_no_body(self, limit: asyncio.Timeout) -> None:
        """Watches from the start: most routes do not ask for a body that a request has not."""
        self._empty = True
        self._hear(limit)

    def watched(self, limit: asyncio.Timeout) -> Receive:
        """What the application receives; when the caller hangs up, `limit` ends."""

        async def receive() -> Message:
            if self._empty:
                self._empty = False
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._receive()
            if message["type"] == "http.request" and not message.get("more_body", False) and not self.heard:
                self._hear(limit)
            elif message["type"] == "http.disconnect":
                self.gone = True
            return message

        return receive

    def leave(self) -> None:
        """Waits for nothing any more."""
        if self._watch is not None:
            self._watch.cancel()

    def _hear(self, limit: asyncio.Timeout) -> None:
        self.heard = True
        self._watch = asyncio.create_task(self._wait(limit))

    async def _wait(self, limit: asyncio.Timeout) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if not limit.expired():
            limit.reschedule(asyncio.get_running_loop().time())


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _deadline(headers: Headers, longest: float) -> float:
    """Seconds that a request may take."""
    given = headers.get(_DEADLINE)
    if given is None:
        return longest
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise invalid(f"{_DEADLINE} is {given[:32]!r}; expected a number of seconds above 0", _DEADLINE)
    return min(seconds, longest)
