"""A line of JSON for each request, with --request_log=json: who asked for what, what came of it, how long it took.

Beside the way SavedModel -> server -> client: an observer of desk.py. Lines go to the standard output, away from the
log of the server.
"""

import datetime
import json
import logging
import threading
from typing import TextIO

from serving.call import Call

_LONGEST = 256  # characters of what a client names

logger = logging.getLogger(__name__)


class RequestLog:
    """Writes the lines."""

    def __init__(self, stream: TextIO):
        """Writes to the stream, a line at a time. When it cannot be written any more, the log ends, not the server."""
        self._stream: TextIO | None = stream
        self._lock = threading.Lock()

    def begin(self, call: Call) -> None:
        """Nothing: a request has its line when it ends."""

    def end(self, call: Call, status: str, seconds: float) -> None:
        """Writes a request's line."""
        line = json.dumps(fields(call, status, seconds), separators=(",", ":")) + "\n"
        with self._lock:
            if self._stream is None:
                return
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError) as error:  # ValueError: it was closed
                self._stream = None
                logger.error("The log of requests ends: %s", error)


def fields(call: Call, status: str, seconds: float) -> dict[str, object]:
    """What is said of a request. Times are in milliseconds, `version` is null where none answered."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "id": call.id[:_LONGEST],
        "entrypoint": call.entrypoint,
        "api": call.api,
        "model": call.model[:_LONGEST],
        "version": call.version,
        "signature": call.signature[:_LONGEST],
        "status": status,
        "ms": round(seconds * 1e3, 3),
        "stages": {stage: round(spent * 1e3, 3) for stage, spent in call.seconds.items()},
        "rows": call.rows,
        "user": call.user,
        "peer": call.peer,
    }
