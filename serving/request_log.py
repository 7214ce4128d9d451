"""A line of JSON for each request, with --request_log=json: who asked for what, what came of it, how long it took.

Beside the way SavedModel -> server -> client: an observer of desk.py. Lines go to the standard output, away from the
log of the server; json_lines.py writes them.
"""

import datetime

from serving.call import Call, cut
from serving.json_lines import JsonLines


class RequestLog(JsonLines):
    """Writes the lines."""

    def end(self, call: Call, status: str, seconds: float) -> None:
        """Hands a request's line to the thread that writes."""
        self.put(fields(call, status, seconds))


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
