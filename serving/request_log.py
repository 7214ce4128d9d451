"""A line of JSON for each request, with --request_log=json: who asked for what, what came of it, how long it took.

Beside the way SavedModel -> server -> client: an observer of desk.py. Lines go to the standard output, away from the
log of the server. A thread of its own writes them, so that whoever reads them slowly, or not at all, holds up no
request; lines that do not fit in its queue meanwhile are lost, and counted.
"""

import datetime
import json
import logging
import queue
import threading
from typing import TextIO

from serving.call import Call, cut

_MAX_LINES = 10_000  # that wait to be written

logger = logging.getLogger(__name__)


class RequestLog:
    """Writes the lines.

    Attributes:
        dropped: lines that were lost, since the start.
    """

    def __init__(self, stream: TextIO):
        """Writes to the stream, a line at a time. When it cannot be written any more, the log ends, not the server."""
        self.dropped = 0
        self._stream = stream
        self._lines: queue.Queue[dict[str, object] | None] = queue.Queue(_MAX_LINES)
        self._lock = threading.Lock()
        self._writer = threading.Thread(target=self._write, name="request-log", daemon=True)
        self._writer.start()

    def end(self, call: Call, status: str, seconds: float) -> None:
        """Hands a request's line to the thread that writes."""
        try:
            self._lines.put_nowait(fields(call, status, seconds))
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


def fields(call: Call, status: str, seconds: float) -> dict[str, object]:
    """What is said of a request. Times are in milliseconds, `version` is null where none answered."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "id": cut(call.id),
        "entrypoint": call.entrypoint,
        "api": call.api,
        "model": cut(call.model),
        "version": call.version,
        "signature": cut(call.signature),
        "status": status,
        "ms": round(seconds * 1e3, 3),
        "stages": {stage: round(spent * 1e3, 3) for stage, spent in call.seconds.items()},
        "rows": call.rows,
        "user": call.user,
        "peer": call.peer,
    }
