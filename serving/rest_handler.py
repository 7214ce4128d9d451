"""What becomes of a request of HTTP: a page, an answer of the API, or a refusal.

Between rest_server.py, which has the connections, and rest_api.py on the way client -> server -> SavedModel. It runs in
the connections' thread, and has others do what takes time.
"""

import asyncio
import contextlib
import dataclasses
import os
import re
import ssl
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import tensorflow as tf
from aiohttp import hdrs, web

from serving import rest_api, rest_http, rest_paths
from serving.rest_api import Admitted, Reply, Request, RestApi
from serving.rest_body import TooLargeError
from serving.rest_http import error_page, reply
from serving.status import late

Page = Callable[[], tuple[str, str]]

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_PREFLIGHT_ORIGIN = re.compile(r"https?://")
_LIGHT_THREADS = 2
# Seconds behind its deadline at which a request gets its answer, if TensorFlow has not stopped its run by then.
_LATE = 0.2


@dataclasses.dataclass(frozen=True)
class Options:
    """How the server is reached, and what it does besides the API.

    Attributes:
        port: to listen on; 0 takes a free one.
        host: to listen on; every interface, of IPv4 and IPv6, if empty.
        threads: that answer at once; requests beyond them wait.
        timeout: seconds that a request may take, and that may pass without a byte of its body; 0 for no bound.
        cors: whether answers may be read by pages of other origins.
        max_body_bytes: of a request, as it is sent and once it is inflated; 0 for as many as there are.
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


class Handler:
    """What becomes of a request."""

    def __init__(self, api: RestApi, options: Options):
        self._under_way: dict[asyncio.Task[Any], web.RequestHandler] = {}
        self._draining = False
        self._api = api
        self._options = options
        self._threads = futures.ThreadPoolExecutor(options.threads, thread_name_prefix="rest")
        # Of their own, so that a server whose threads are all at work still shows its metrics and its models' states.
        self._light_threads = futures.ThreadPoolExecutor(_LIGHT_THREADS, thread_name_prefix="rest-light")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._light_threads.shutdown(wait=False, cancel_futures=True)

    def drain(self) -> Mapping[asyncio.Task[Any], web.RequestHandler]:
        """Ends connections with the next answer; returns a view of what is under way, and on which connection."""
        self._draining = True
        return self._under_way

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
        content_type, text = await loop.run_in_executor(self._light_threads, self._options.pages[page])
        return reply(200, text, content_type)

    async def _answer(self, request: web.BaseRequest, path: str) -> web.Response:
        if request.method == "OPTIONS":
            known = _PREFLIGHT_ORIGIN.search(request.headers.get(hdrs.ORIGIN, ""))
            response = reply(200 if known else 400, b"", "text/html; charset=ISO-8859-1")
        else:
            result = await self._reply(request, path)
            response = reply(result.status, result.body, "application/json", result.headers)
            if result.status == rest_api.TOO_LARGE:
                response.force_close()  # the rest of the body is not read
        if self._options.cors:
            response.headers.update(_CORS)
        return response

    async def _reply(self, request: web.BaseRequest, path: str) -> Reply:
        headers = {name.lower(): value for name, value in reversed(request.headers.items())}  # the first one counts

        def gone() -> bool:
            return request.transport is None

        admitted = self._api.admit(Request(request.method, path, headers, request.remote or "", gone))
        if isinstance(admitted, Reply):
            return admitted
        with contextlib.ExitStack() as undo:
            undo.callback(admitted.drop)
            try:
                body = await self._body(request)
            except tf.errors.OpError as error:
                undo.pop_all()
                return admitted.refuse(error)
            undo.pop_all()
        return await self._work(admitted, body)

    async def _work(self, admitted: Admitted, body: bytes) -> Reply:
        """Has a thread answer a request, but waits for it no longer than its caller does."""
        admitted.begin()
        threads = self._threads if admitted.is_work else self._light_threads
        answering = threads.submit(admitted.answer, body)
        answered = asyncio.wrap_future(answering)
        left = admitted.call.remaining()
        try:
            done, _ = await asyncio.wait([answered], timeout=None if left is None else max(0.0, left) + _LATE)
        except asyncio.CancelledError:
            if answering.cancel():  # no thread has begun
                admitted.drop()
            answered.cancel()
            raise
        if done:
            return answered.result()
        error = late()
        if answering.cancel():
            return admitted.refuse(error)
        answered.cancel()  # the thread goes on, and nobody listens
        return rest_api.failure(error)

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The body of a request, as it was sent.

        Raises:
            TooLargeError: it has more bytes than it may have.
            tf.errors.DeadlineExceededError: no more of it comes.
        """
        limit, patience = self._options.max_body_bytes, self._options.timeout or None
        loop = asyncio.get_running_loop()
        parts, size = [], 0
        try:
            async with asyncio.timeout(patience) as alarm:
                async for part in request.content.iter_any():
                    size += len(part)
                    if limit and size > limit:
                        raise TooLargeError(str(max(size, request.content_length or 0)), limit)
                    parts.append(part)
                    if patience:
                        alarm.reschedule(loop.time() + patience)
        except TimeoutError as error:
            raise tf.errors.DeadlineExceededError(None, None, "The body did not come") from error
        return b"".join(parts)
