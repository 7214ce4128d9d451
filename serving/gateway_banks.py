"""Banks: the vectors of classes that images are scored against, from memory, a label set's files, or the model.

Between the gateway's routes and gateway_upstream.py on the way SavedModel -> server -> [gateway] -> application. A bank
belongs to one space: when the served space changes, classes are embedded again.
"""

import asyncio
import collections
import logging
import weakref
from collections.abc import Sequence

import numpy as np

from serving.gateway_items import Item
from serving.gateway_label_sets import LabelSet, LabelSets
from serving.gateway_metrics import Metrics
from serving.gateway_upstream import ATTEMPTS, Embedded, Floats, Upstream, changed

_KEPT = 64  # banks in memory
_KEPT_BYTES = 256 * 2**20  # of them; one of 1,000 classes and 1,408 dimensions takes 6 MB

logger = logging.getLogger(__name__)


class Banks:
    """The banks of one gateway.

    Args:
        upstream: the model that embeds classes.
        sets: where label sets are kept, None where they are not.
        metrics: count where banks came from.
    """

    def __init__(self, upstream: Upstream, sets: LabelSets | None, metrics: Metrics):
        self._upstream, self._sets, self._metrics = upstream, sets, metrics
        self._banks: collections.OrderedDict[tuple[str, str], Floats] = collections.OrderedDict()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def score(self, items: Sequence[Item], labels: LabelSet) -> tuple[Embedded, Floats]:
        """The items' vectors, and their cosines with each class.

        Returns:
            The n items, and float32 [n, k]; zeros in the rows of failures.

        Raises:
            VitError: no answer, or a model without a text tower.
            Refusal: the served space changed all the while.
        """
        for _ in range(ATTEMPTS):
            found = await self._upstream.embed(items)
            bank = await self._find(labels, found.space_id)
            if bank is not None:
                return found, found.vectors @ bank.T
        raise changed()

    async def embed(self, labels: LabelSet) -> tuple[str, Floats]:
        """The space that is served now, and the bank of a label set in it; VitError as `score`."""
        found = await self._upstream.embed_classes(labels.classes, labels.templates)
        self._metrics.banks.labels("model").inc()
        vectors = np.asarray(found.vectors, np.float32)
        self._remember(labels, found.space_id, vectors)
        return found.space_id, vectors

    async def _find(self, labels: LabelSet, space_id: str) -> Floats | None:
        """The bank in a space; None where the model embeds in another one by now."""
        # One at a time for a list of classes: after a change of the space every request asks for it at once.
        key = labels.fingerprint, space_id
        lock = self._locks.setdefault(labels.fingerprint, asyncio.Lock())
        async with lock:
            kept = self._banks.get(key)
            if kept is not None:
                self._banks.move_to_end(key)
                self._metrics.banks.labels("memory").inc()
                return kept
            if labels.name and self._sets is not None:
                stored = await asyncio.to_thread(self._sets.vectors, labels, space_id)
                if stored is not None:
                    self._metrics.banks.labels("file").inc()
                    self._remember(labels, space_id, stored)
                    return stored
            served, vectors = await self.embed(labels)
            if labels.name and self._sets is not None:
                await self._keep(self._sets, labels, served, vectors)
            return vectors if served == space_id else None

    async def _keep(self, sets: LabelSets, labels: LabelSet, space_id: str, vectors: Floats) -> None:
        """Writes a bank, where that can be done: it is no reason to refuse what was asked for."""
        try:
            await asyncio.to_thread(sets.keep, labels, space_id, vectors)
        except OSError as error:
            logger.error("The vectors of the label set %s cannot be kept: %s", labels.name, error)

    def _remember(self, labels: LabelSet, space_id: str, vectors: Floats) -> None:
        key = labels.fingerprint, space_id
        self._banks[key] = vectors
        self._banks.move_to_end(key)
        while len(self._banks) > _KEPT or sum(bank.nbytes for bank in self._banks.values()) > _KEPT_BYTES:
            self._banks.popitem(last=False)
