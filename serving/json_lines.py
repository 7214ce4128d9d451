"""Lines of JSON, written by a thread of their own.

Beside the way SavedModel -> server -> client: the log of requests, of the server (request_log.py) and of the gateway.
Whoever reads the lines slowly, or not at all, holds up no request; those that do not fit in the queue meanwhile are
lost, and counted.
"""

import json
import logging
import queue
import threading
from collections.abc import Mapping
from typing import TextIO

_MAX_LINES = 10_000  # that wait to be written

logger = logging.getLogger(__name__)


class JsonLines:
    """Writes the lines.

    Attributes:
        dropped: lines that were lost, since the start.
    """

    def __init__(self, stream: TextIO):
        """Writes to the stream, a line at a time. When it cannot be written any more, the log ends, not the server."""
        self.dropped = 0
        self._stream = stream
        self._lines: queue.Queue[Mapping[str, object] | None] = queue.Queue(_MAX_LINES)
        self._lock = threading.Lock()
        self._writer = threading.Thread(target=self._write, name="request-log", daemon=True)
        self._writer.start()

    def put(self, entry: Mapping[str, object]) -> None:
        """Hands a line to the thread that writes."""
        try:
            self._lines.put_nowait(entry)
        except queue.Full:
            with self._lock:
                self.dropped += 1
                first = self.dropped == 1
            if first:
                logger.warning("The log of requests is not read fast enough: lines are lost")

    def close(self, seconds: float = 5.0) -> None:
        """Writes what is left; what has not been taken after so many seconds is lost."""
        try:
            self._lines.put(None, timeout=seconds)
        except queue.Full:
            pass
        else:
            self._writer.join(seconds)
        if self.dropped:
            logger.warning("The log of requests has lost %d lines", self.dropped)

    def _write(self) -> None:
        broken = False
        while (entry := self._lines.get()) is not None:
            if broken:
                continue  # nobody reads, and nothing is to pile up
            try:
                self._stream.write(json.dumps(entry, separators=(",", ":")) + "\n")
                self._stream.flush()
            except (OSError, ValueError) as error:  # ValueError: it was closed
                broken = True
                logger.error("The log of requests ends: %s", error)
