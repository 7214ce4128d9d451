"""HTTP as TensorFlow Serving's server speaks it, over aiohttp: its error pages, reason phrases and headers.

Below rest_server.py on the way client -> server -> SavedModel: from the connection to a request whose target is known.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from aiohttp import hdrs, http_exceptions, web

# The head of a request is in memory before anyone asks for a key: the two together bound it.
MAX_LINE = 2**17  # bytes of the request line, and of a header
MAX_HEADERS = 64
NO_TIMEOUT = 3600.0 * 24 * 365  # seconds; an idle connection stays open
METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"})

# libevent's; a code beyond its list has the name of its class.
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    413: "Request Entity Too Large",
    417: "Expectation Failed",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Time-out",
}
_CONTINUE = "100-continue"
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_TARGET = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?#-]|%[0-9A-Fa-f]{2})*")

logger = logging.getLogger(__name__)


def reply(
    status: int, body: bytes | str, content_type: str, headers: Mapping[str, str] = MappingProxyType({})
) -> web.Response:
    """An answer, with the reason phrase that libevent has for its status."""
    content = body.encode() if isinstance(body, str) else body
    return web.Response(
        status=status,
        reason=_REASONS.get(status, "Client Error"),
        body=content,
        headers={hdrs.CONTENT_TYPE: content_type, **headers},
    )


def error_page(status: int) -> web.Response:
    """An answer to what is not for the API; it ends the connection."""
    reason = _REASONS[status]
    page = f"<HTML><HEAD>\n<TITLE>{status} {reason}</TITLE>\n</HEAD><BODY>\n<H1>{reason}</H1>\n</BODY></HTML>\n"
    response = reply(status, page, "text/html")
    response.force_close()
    return response


def target(request: web.BaseRequest) -> str | None:
    """The path of a request with its query, as it was sent; None if it is no URI."""
    path = request.raw_path
    origin = _ORIGIN.match(path)
    if origin:
        path = path[origin.end() :] or "/"
    return path if _TARGET.fullmatch(path) else None


def expects_what_is_done(request: web.BaseRequest) -> bool:
    """Whether a request expects nothing, or to be told to go on."""
    return _expectation(request) in ("", _CONTINUE)


async def go_on(request: web.BaseRequest) -> None:
    """Tells a client that waits for it to send its body."""
    if _waits(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer, nothing has been sent


def is_held_back(request: web.BaseRequest) -> bool:
    """Whether a client still waits to be told to go on; what comes next may be the body, or another request."""
    return _waits(request) and not request.content.is_eof()


def _expectation(request: web.BaseRequest) -> str:
    return request.headers.get(hdrs.EXPECT, "").lower()


def _waits(request: web.BaseRequest) -> bool:
    return _expectation(request) == _CONTINUE and request.version >= (1, 1)


class Connection(web.RequestHandler):
    """A connection, on which a request that is no HTTP gets the real server's page."""

    def is_sending(self) -> bool:
        """Whether a part of an answer waits for the client to read on."""
        return self.transport is not None and self.transport.get_write_buffer_size() > 0

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that could not be read, or to one that a defect of ours has ended."""
        if status == 500:
            logger.error("%s %s: a defect of the server", request.method, request.raw_path, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError(f"an answer is under way, and {message or exc} cannot be told")
        if status == 500:
            return error_page(500)
        # The exception of a line that is no request is the same, and quotes the line.
        unknown_method = isinstance(exc, http_exceptions.BadHttpMethod) and " HTTP/" in exc.message
        return error_page(501 if unknown_method else 400)


class Incoming(web.BaseRequest):
    """A request; its answer does not say which software sends it."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.pop(hdrs.SERVER, None)


class Http(web.Server):
    """What asyncio makes connections of. Bodies come as they were sent, of any size."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]):
        super().__init__(handler, request_factory=lambda *parts: Incoming(*parts, self._loop, client_max_size=0))

    def __call__(self) -> Connection:
        return Connection(
            self,
            loop=self._loop,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=NO_TIMEOUT,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
        )
