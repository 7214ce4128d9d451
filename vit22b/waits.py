"""How a client waits: in the thread of its caller, or in an event loop.

Under Client and AsyncClient at the end of the walk SavedModel -> server -> client, so that what they do is written
once, as coroutines. Those of a Client never suspend: what they await blocks the thread instead, and `run` drives them
without an event loop.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator
from concurrent import futures
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Waits(Protocol):
    """What a coroutine of the client may wait for."""

    async def first(self, done: Collection["futures.Future[None]"], timeout: float | None = None) -> None:
        """Returns when one of the futures is done, or after `timeout` seconds."""

    async def sleep(self, seconds: float) -> None:
        """Returns after that time."""

    async def work(self, task: Callable[[], T]) -> T:
        """The result of what reads files or takes processor time."""
        raise NotImplementedError

    def items(self, items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
        """Iterates."""
        raise NotImplementedError


class ThreadWaits:
    """Waits in the caller's thread."""

    async def first(self, done: Collection["futures.Future[None]"], timeout: float | None = None) -> None:
        """See Waits."""
        futures.wait(done, timeout, futures.FIRST_COMPLETED)

    async def sleep(self, seconds: float) -> None:
        """See Waits."""
        time.sleep(seconds)

    async def work(self, task: Callable[[], T]) -> T:
        """See Waits."""
        return task()

    async def items(self, items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
        """See Waits.

        Raises:
            ValueError: items that come asynchronously.
        """
        if not isinstance(items, Iterable):
            raise ValueError(f"expected an iterable, got a {type(items).__name__}; AsyncClient takes asynchronous ones")
        for item in items:
            yield item


class LoopWaits:
    """Waits in the event loop that runs."""

    async def first(self, done: Collection["futures.Future[None]"], timeout: float | None = None) -> None:
        """See Waits."""
        await asyncio.wait(
            [asyncio.wrap_future(each) for each in done], timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )

    async def sleep(self, seconds: float) -> None:
        """See Waits."""
        await asyncio.sleep(seconds)

    async def work(self, task: Callable[[], T]) -> T:
        """See Waits."""
        return await asyncio.to_thread(task)

    async def items(self, items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
        """See Waits; what a plain iterable does between two items, it does in the loop's thread."""
        if isinstance(items, AsyncIterable):
            async for item in items:
                yield item
        else:
            for item in items:
                yield item


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits by ThreadWaits alone."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise RuntimeError("a coroutine of the blocking client has suspended")


def iterate(stream: AsyncIterator[T]) -> Iterator[T]:
    """The items of an asynchronous generator that waits by ThreadWaits alone."""
    try:
        while True:
            try:
                yield run(_next(stream))
            except StopAsyncIteration:
                return
    finally:
        run(_close(stream))


async def _next(stream: AsyncIterator[T]) -> T:
    return await anext(stream)


async def _close(stream: AsyncIterator[Any]) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
