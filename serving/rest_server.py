"""The REST server: HTTP connections in a thread of its own.

The end of the server on the way SavedModel -> server -> client, as services.py is over gRPC. It opens the port, has
rest_handler.py see to what comes in, and closes when requests under way have ended.
"""

import asyncio
import errno
import socket
import ssl
import threading
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

from serving import rest_http
from serving.answers import Answers
from serving.desk import Desk
from serving.rest_api import RestApi
from serving.rest_handler import Handler, HttpOptions

_AT_ONCE = 0.001  # seconds; aiohttp takes 0 for no limit
_BACKLOG = 128  # connections that wait to be accepted
_TURNS = 10  # of the loop, in which a request that has come in by now becomes one that is under way
_LOOK = 0.01  # seconds between two looks at whether the last answer has left


def serve(answers: Answers, desk: Desk, options: HttpOptions) -> "RestServer":
    """Opens the port and starts to answer.

    Raises:
        OSError: the address cannot be bound, for instance because it is in use.
        ValueError: there is no thread to answer with.
    """
    if options.threads < 1:
        raise ValueError(f"{options.threads} threads for REST; expected 1 or more (--rest_api_num_threads)")
    api = RestApi(answers, desk, options.timeout or None, options.max_body_bytes)
    return RestServer(Handler(api, options), _listen(options), options)


class RestServer:
    """An open port.

    Attributes:
        port: that it is bound to.
    """

    def __init__(self, handler: Handler, listening: socket.socket, options: HttpOptions):
        self.port: int = listening.getsockname()[1]
        self._handler = handler
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="rest", daemon=True)
        self._thread.start()
        self._http, self._listener = self._wait_for(self._open(listening, options.ssl_context))

    def stop(self, grace: float) -> None:
        """Takes no more connections, and returns when the requests under way have ended, or after `grace` seconds.

        A request has ended when its client has the whole answer.
        """
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
        end = self._loop.time() + grace
        under_way = self._handler.drain()
        for listening in self._listener.sockets:
            self._loop.remove_reader(listening)  # asyncio would lose what it has just accepted when it is closed
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        self._listener.close()
        connections, answering = set(self._http.connections), set(under_way.values())
        sending = answering.union(connection for connection in connections if connection.is_sending())
        await _hang_up(connections - answering)
        while under_way and self._loop.time() < end:
            await asyncio.wait(under_way, timeout=end - self._loop.time())
        for task in list(under_way):
            task.cancel()
        await _hang_up(answering)
        while not sending.isdisjoint(self._http.connections) and self._loop.time() < end:
            await asyncio.sleep(_LOOK)
        await self._http.shutdown(_AT_ONCE)
        left = asyncio.all_tasks() - {asyncio.current_task()}  # such as one that waits for the rest of a refused body
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _hang_up(connections: set[web.RequestHandler]) -> None:
    """Closes connections; what has been written to one is still sent."""
    for connection in connections:
        connection.close()
    await asyncio.gather(*(connection.shutdown(_AT_ONCE) for connection in connections))


def _listen(options: HttpOptions) -> socket.socket:
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
