"""The images of a job on their way through the client: those that wait for their answers can be sent again.

Under vit22b.served, at the end of the walk SavedModel -> server -> client.
"""

import collections
from collections.abc import AsyncIterator

from vit22b.sources import NamedImage


class Feed:
    """Images that are given out again unless they were answered.

    Attributes:
        done: how many were.
    """

    def __init__(self, images: AsyncIterator[NamedImage]):
        self._images = images
        self._waiting: collections.deque[NamedImage] = collections.deque()
        self.done = 0

    async def unanswered(self) -> AsyncIterator[NamedImage]:
        """Those that wait for their answers, and then new ones."""
        for image in list(self._waiting):
            yield image
        async for image in self._images:
            self._waiting.append(image)
            yield image

    def answered(self, count: int) -> None:
        """Forgets the first of those that wait."""
        for _ in range(count):
            self._waiting.popleft()
        self.done += count
