"""The REST server: HTTP connections in a thread of its own, the answers of rest_api.py in a pool of others.

The last module of the server on the way SavedModel -> server -> client, beside services.py. It opens the port, tells
the API's paths from its pages and from what is neither, and closes when requests under way have ended.
"""

import asyncio
import dataclasses
import errno
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent import futures
from typing import Any

from aiohttp import hdrs, web

from serving import json_writer, rest_http, rest_paths
from serving.answers import Answers
from serving.desk import Desk
from serving.rest_api import Reply, Request, RestApi
from serving.rest_http import error_page, reply

Page = Callable[[], tuple[str, str]]

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_PREFLIGHT_ORIGIN = re.compile(r"https?://")
_TOO_LARGE = 413
_AT_ONCE = 0.001  # seconds; aiohttp takes 0 for no limit
_BACKLOG = 128  # connections that wait to be accepted


@dataclasses.dataclass(frozen=True)
class Options:
    """How the server is reached, and what it does besides the API.

    Attributes:
        port: to listen on; 0 takes a free one.
        host: to listen on; every interface, of IPv4 and IPv6, if empty.
        threads: that answer at once; requests beyond them wait.
        timeout: seconds that a request may take; 0 for as long as it does.
        cors: whether answers may be read by pages of other origins.
        max_body_bytes: of a request as it is sent; 0 for as many as there are.
        ssl_context: for TLS; the port is plain without it.
        pages: content type and text of what is shown besides the API, by path.
    """

    port: int = 0
    host: str = ""
    threads: int = 4 * (os.cpu_count() or 1)
    timeout: float = 30.0
    cors: bool = False
    max_body_bytes: int = 0
    ssl_context: ssl.SSLContext | None = None
    pages: Mapping[str, Page] = dataclasses.field(default_factory=dict)


def serve(answers: Answers, desk: Desk, options: Options) -> "RestServer":
    """Opens the port and starts to answer.

    Raises:
        OSError: the address cannot be bound, for instance because it is in use.
        ValueError: there is no thread to answer with.
    """
    if options.threads < 1:
        raise ValueError(f"{options.threads} threads for REST; expected 1 or more (--rest_api_num_threads)")
    return RestServer(_Handler(RestApi(answers, desk, options.timeout or None), options), _listen(options), options)


class RestServer:
    """An open port.

    Attributes:
        port: that it is bound to.
    """

    def __init__(self, handler: "_Handler", listening: socket.socket, options: Options):
        self.port: int = listening.getsockname()[1]
        self._handler = handler
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="rest", daemon=True)
        self._thread.start()
        self._http, self._listener = self._wait_for(self._open(listening, options.ssl_context))

    def stop(self, grace: float) -> None:
        """Takes no more connections, and returns when the requests under way have ended, or after `grace` seconds."""
        self._wait_for(self._close(grace))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._handler.close()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open(
        self, listening: socket.socket, ssl_context: ssl.SSLContext | None
    ) -> tuple[rest_http.Http, asyncio.Server]:
        http = rest_http.Http(self._handler.handle)
        return http, await self._loop.create_server(http, sock=listening, ssl=ssl_context, backlog=_BACKLOG)

    async def _close(self, grace: float) -> None:
        self._listener.close()
        under_way = self._handler.drain()
        idle = set(self._http.connections).difference(under_way.values())
        for connection in idle:
            connection.close()
        await asyncio.gather(*(connection.shutdown(_AT_ONCE) for connection in idle))
        if under_way:
            await asyncio.wait(under_way, timeout=grace)
        for task in under_way:
            task.cancel()
        self._http.pre_shutdown()
        await self._http.shutdown(_AT_ONCE)


class _Handler:
    """What becomes of a request."""

    def __init__(self, api: RestApi, options: Options):
        self._under_way: dict[asyncio.Task[Any], web.RequestHandler] = {}
        self._draining = False
        self._api = api
        self._options = options
        self._threads = futures.ThreadPoolExecutor(options.threads, thread_name_prefix="rest")
        # Of their own, so that a server whose threads are all at work still shows its metrics.
        self._page_threads = futures.ThreadPoolExecutor(1, thread_name_prefix="rest-pages")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._page_threads.shutdown(wait=False, cancel_futures=True)

    def drain(self) -> dict[asyncio.Task[Any], web.RequestHandler]:
        """Ends connections with the next answer; returns the requests that are under way, and on which connection."""
        self._draining = True
        return dict(self._under_way)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers a request."""
        task = asyncio.current_task()
        assert task is not None
        self._under_way[task] = request.protocol
        task.add_done_callback(self._under_way.pop)
        try:
            response = await self._dispatch(request)
        except (ConnectionError, web.RequestPayloadError):  # the body did not come, or not as HTTP has it
            return error_page(400)
        if self._draining:
            response.force_close()
        return response

    async def _dispatch(self, request: web.BaseRequest) -> web.Response:
        path = rest_http.target(request)
        if request.method not in rest_http.METHODS:
            return error_page(501)
        if path is None:
            return error_page(400)
        if not await rest_http.expects(request):
            return error_page(417)
        page = re.split(r"[?#]", path, maxsplit=1)[0]
        if page in self._options.pages:
            return await self._show(page, path)
        if not rest_paths.PREFIX.fullmatch(path):
            return error_page(404)
        return await self._answer(request, path)

    async def _show(self, page: str, path: str) -> web.Response:
        if path != page:
            return reply(400, f"Unexpected path: {path}. Should be {page}", "text/plain")
        loop = asyncio.get_running_loop()
        content_type, text = await loop.run_in_executor(self._page_threads, self._options.pages[page])
        return reply(200, text, content_type)

    async def _answer(self, request: web.BaseRequest, path: str) -> web.Response:
        if request.method == "OPTIONS":
            known = _PREFLIGHT_ORIGIN.search(request.headers.get(hdrs.ORIGIN, ""))
            response = reply(200 if known else 400, b"", "text/html; charset=ISO-8859-1")
        else:
            result = await self._reply(request, path)
            response = reply(result.status, result.body, "application/json", result.headers)
            if result.status == _TOO_LARGE:
                response.force_close()  # the rest of the body is not read
        if self._options.cors:
            response.headers.update(_CORS)
        return response

    async def _reply(self, request: web.BaseRequest, path: str) -> Reply:
        body = await self._body(request)
        if isinstance(body, Reply):
            return body
        headers = {name.lower(): value for name, value in reversed(request.headers.items())}  # the first one counts

        def gone() -> bool:
            return request.transport is None

        answer = self._api.admit(Request(request.method, path, headers, body, request.remote or "", gone))
        if isinstance(answer, Reply):
            return answer
        return await asyncio.get_running_loop().run_in_executor(self._threads, answer)

    async def _body(self, request: web.BaseRequest) -> bytes | Reply:
        limit = self._options.max_body_bytes
        parts, size = [], 0
        async for part in request.content.iter_any():
            size += len(part)
            if limit and size > limit:
                text = f"Received message larger than max ({max(size, request.content_length or 0)} vs. {limit})"
                return Reply(_TOO_LARGE, json_writer.error(text))
            parts.append(part)
        return b"".join(parts)


def _listen(options: Options) -> socket.socket:
    """A socket on the address, which no other server shares."""
    if options.host:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        return socket.create_server((options.host.strip("[]"), options.port), family=family, backlog=_BACKLOG)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", options.port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
    return socket.create_server(("", options.port), backlog=_BACKLOG)
