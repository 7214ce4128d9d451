"""What becomes of a request of HTTP: a page, an answer of the API, or a refusal.

Between rest_server.py, which has the connections, and rest_api.py on the way client -> server -> SavedModel. It runs in
the connections' thread, and has others do what takes time.
"""

import asyncio
import contextlib
import dataclasses
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any, TypeVar

import tensorflow as tf
from aiohttp import hdrs, web

from serving import rest_http, rest_paths
from serving.flags import Flags
from serving.rest_api import Admitted, Request, RestApi
from serving.rest_body import TooLargeError
from serving.rest_http import error_page, reply
from serving.rest_reply import TOO_LARGE, Reply, failure
from serving.status import exhausted, late
from serving.thread_pool import full_pool

T = TypeVar("T")
Page = Callable[[], tuple[str, str]]

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_PREFLIGHT_ORIGIN = re.compile(r"https?://")
_LIGHT_THREADS = 2
_LIGHT_PLACES = 64  # requests that these threads answer, or that wait for them: more than probes and scrapers are
_SLOWEST = 2**16  # bytes a second; only a body that comes faster has more than the timeout
# Seconds behind its deadline at which a request gets its answer, if TensorFlow has not stopped its run by then.
_LATE = 0.2


@dataclasses.dataclass(frozen=True)
class HttpOptions:
    """How the server is reached, and what it does besides the API.

    Attributes:
        port: to listen on; 0 takes a free one.
        host: to listen on; every interface, of IPv4 and IPv6, if empty.
        threads: that answer at once; requests beyond them wait.
        timeout: seconds that a request may take once its body is there; its body has as long, and a second more for
            every 64 KiB that have come. 0 for no bound.
        cors: whether answers may be read by pages of other origins.
        max_body_bytes: of a request, as it is sent and once it is inflated; 0 for as many as there are.
        ssl_context: for TLS; the port is plain without it.
        pages: content type and text of what is shown besides the API, by path.
    """

    port: int = 0
    host: str = ""
    threads: int = Flags.rest_api_num_threads
    timeout: float = Flags.rest_api_timeout_in_ms / 1000
    cors: bool = False
    max_body_bytes: int = 0
    ssl_context: ssl.SSLContext | None = None
    pages: Mapping[str, Page] = dataclasses.field(default_factory=dict)


class Handler:
    """What becomes of a request."""

    def __init__(self, api: RestApi, options: HttpOptions):
        self._under_way: dict[asyncio.Task[Any], web.RequestHandler] = {}
        self._draining = False
        self._api = api
        self._options = options
        self._threads = full_pool(options.threads, "rest")
        # Of their own, so that a server whose threads are all at work still shows its metrics and its models' states.
        self._light_threads = _LightThreads()

    def close(self) -> None:
        """Ends the threads, and does not wait for them; what no thread has begun is given up."""
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
        if self._draining or rest_http.is_held_back(request):
            response.force_close()
        return response

    async def _dispatch(self, request: web.BaseRequest) -> web.Response:
        path = rest_http.target(request)
        if request.method not in rest_http.METHODS:
            return error_page(501)
        if path is None:
            return error_page(400)
        if not rest_http.expects_what_is_done(request):
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
        try:
            content_type, text = await self._made(self._options.pages[page])
        except tf.errors.OpError as error:
            refusal = failure(error)
            return reply(refusal.status, error.message, "text/plain", refusal.headers)
        return reply(200, text, content_type)

    async def _made(self, page: Page) -> tuple[str, str]:
        try:
            async with asyncio.timeout(self._options.timeout or None):
                return await asyncio.wrap_future(self._light_threads.submit(page))
        except TimeoutError as error:
            raise late() from error

    async def _answer(self, request: web.BaseRequest, path: str) -> web.Response:
        if request.method == "OPTIONS":
            known = _PREFLIGHT_ORIGIN.search(request.headers.get(hdrs.ORIGIN, ""))
            response = reply(200 if known else 400, b"", "text/html; charset=ISO-8859-1")
        else:
            result = await self._reply(request, path)
            response = reply(result.status, result.body, "application/json", result.headers)
            if result.status == TOO_LARGE:
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
                body = await self._body(request, is_kept=admitted.is_work)
            except tf.errors.OpError as error:
                undo.pop_all()
                return admitted.refuse(error, "size" if isinstance(error, TooLargeError) else "body")
            undo.pop_all()
        return await self._work(admitted, body)

    async def _work(self, admitted: Admitted, body: bytes) -> Reply:
        """Has a thread answer a request, but waits for it no longer than its caller does."""
        admitted.begin()
        threads = self._threads if admitted.is_work else self._light_threads
        try:
            answering = threads.submit(admitted.answer, body)
        except tf.errors.OpError as error:
            return admitted.refuse(error, "threads")
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
            return admitted.refuse(error, "threads")
        answered.cancel()  # the thread goes on, and nobody listens
        return failure(error)

    async def _body(self, request: web.BaseRequest, *, is_kept: bool) -> bytes:
        """The body of a request, as it was sent.

        One that is not kept is empty: for what takes no place, since nothing bounds how many of these there are.

        Raises:
            TooLargeError: it has more bytes than it may have.
            tf.errors.DeadlineExceededError: it does not come, or too slowly.
        """
        await rest_http.go_on(request)
        limit, patience = self._options.max_body_bytes, self._options.timeout or None
        loop = asyncio.get_running_loop()
        parts, size, start = [], 0, loop.time()
        try:
            async with asyncio.timeout(patience) as alarm:
                async for part in request.content.iter_any():
                    size += len(part)
                    if limit and size > limit:
                        raise TooLargeError(str(max(size, request.content_length or 0)), limit)
                    if is_kept:
                        parts.append(part)
                    if patience:
                        alarm.reschedule(start + patience + size / _SLOWEST)
        except TimeoutError as error:
            raise late() from error
        return b"".join(parts)


class _LightThreads(futures.ThreadPoolExecutor):
    """The threads of what costs little, and a bound on it: the desk counts none of it."""

    def __init__(self) -> None:
        super().__init__(_LIGHT_THREADS, thread_name_prefix="rest-light")
        self._places = threading.Semaphore(_LIGHT_PLACES)

    def submit(self, work: Callable[..., T], /, *args: Any, **options: Any) -> futures.Future[T]:
        """Has a thread do it.

        Raises:
            tf.errors.ResourceExhaustedError: too much waits.
        """
        if not self._places.acquire(blocking=False):
            raise exhausted(f"{_LIGHT_PLACES} requests for states, metadata and pages are under way; try again")
        doing = super().submit(work, *args, **options)
        doing.add_done_callback(lambda _done: self._places.release())
        return doing
