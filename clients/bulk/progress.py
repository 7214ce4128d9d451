"""How far a bulk job is, told by the receipts that lie in its output, whatever runs it.

Beside clients/bulk_embed.py, for people and for the summary.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from apache_beam.io.filesystems import FileSystems

from clients.bulk import storage
from clients.bulk.shards import RECEIPTS, Target
from clients.terminal import progress

_PAUSE = 0.5  # seconds between two looks
_SHARE = 0.05  # of its time that it may spend on looking

Place = tuple[int, int]


@contextmanager
def watched(target: Target, total: int | None) -> Iterator[set[Place]]:
    """Shows progress on a terminal until the end of the block.

    Args:
        target: of the job.
        total: how many shards there will be, if that is known.

    Yields:
        The shards that are done already: source and first item of each.
    """
    before = done(target)
    stop = threading.Event()
    with progress(total, "shards", len(before)) as advance:
        thread = threading.Thread(target=_look, args=(target, len(before), advance, stop))
        thread.start()
        try:
            yield before
        finally:
            stop.set()
            thread.join()


def done(target: Target) -> set[Place]:
    """The shards that have a receipt."""
    pattern = FileSystems.join(target.output, RECEIPTS, f"{target.fingerprint}-*.json")
    names = [file.path.rpartition("/")[2].removesuffix(".json") for file in storage.match(pattern)]
    return {(int(source), int(start)) for _, source, start in (name.split("-") for name in names)}


def _look(target: Target, known: int, advance: Callable[[int], None], stop: threading.Event) -> None:
    pause = _PAUSE
    while not stop.wait(pause):
        began = time.monotonic()
        found = len(done(target))
        advance(found - known)
        known = found
        # Where a listing takes long, it is made seldom.
        pause = max(_PAUSE, (time.monotonic() - began) / _SHARE)
