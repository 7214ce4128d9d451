"""What the gateway answers when it cannot do what was asked: errors in OpenAI's form, and a table from the client's.

Beside the way SavedModel -> server -> [gateway] -> application. A Refusal is raised wherever the reason is found; the
application makes an answer of it, so that every error has one form:

    {"error": {"message": "...", "type": "invalid_request_error", "code": "bad_image", "param": "input[2]"}}
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from vit22b import errors
from vit22b.errors import Failure

RETRY_AFTER = 1  # seconds; a server's queue is some requests long, and each takes a fraction of this
_KINDS = {401: "authentication_error", 429: "rate_limit_error"}


class Refusal(Exception):  # noqa: N818 - an answer, of which an error is made
    """An answer that is an error.

    Attributes:
        status: the HTTP status.
        message: what came, what was expected, what to do.
        code: the same for programs: one word of docs/gateway.md.
        param: the field of the request that is wrong, None where there is none.
        headers: to be sent with it.
        failures: items of the request that are at fault.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        failures: Sequence[Failure] = (),
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})
        self.failures = tuple(failures)

    def response(self) -> JSONResponse:
        """The answer."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error: dict[str, Any] = {"message": written(self.message), "type": kind, "code": self.code}
        error["param"] = None if self.param is None else written(self.param)
        if self.failures:
            error["failures"] = as_json(self.failures)
        return JSONResponse({"error": error}, self.status, self.headers)


@dataclasses.dataclass(frozen=True)
class _Row:
    status: int
    code: str
    retry: bool = False  # whether the same request may succeed a little later


# An error of the server is not the caller's: a key that the server does not take from the gateway is a 502 and no 401.
_TABLE: dict[type[errors.VitError], _Row] = {
    errors.UnreachableError: _Row(502, "upstream_unreachable"),
    errors.NotServedError: _Row(503, "model_not_served", retry=True),
    errors.DeadlineError: _Row(504, "upstream_timeout"),
    errors.OverloadedError: _Row(429, "upstream_overloaded", retry=True),
    errors.SpaceError: _Row(503, "space_changed", retry=True),
}
_REFUSED = _Row(400, "refused_by_model")
_FAILED = _Row(502, "upstream_failed")
_CALLERS = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION"})


def invalid(message: str, param: str | None, code: str = "invalid_value") -> Refusal:
    """The refusal of a request for one of its fields."""
    return Refusal(400, message, code, param=param)


def too_busy(message: str, code: str) -> Refusal:
    """The refusal of work that may be asked for again in RETRY_AFTER seconds."""
    return Refusal(429, message, code, headers={"Retry-After": str(RETRY_AFTER)})


def from_client(error: errors.VitError) -> Refusal:
    """The refusal for an error of vit22b.client."""
    if isinstance(error, errors.RequestError) and error.code in _CALLERS:
        row = _REFUSED
    else:
        row = next((row for kind, row in _TABLE.items() if isinstance(error, kind)), _FAILED)
    headers = {"Retry-After": str(RETRY_AFTER)} if row.retry else {}
    # Without the address and the remedy, which are for whoever runs the gateway: its log has them.
    return Refusal(row.status, error.message, row.code, headers=headers)


def as_json(failures: Sequence[Failure]) -> list[dict[str, Any]]:
    """The items that failed, as answers have them."""
    return [{"index": failure.index, "reason": written(failure.reason)} for failure in failures]


def written(text: str) -> str:
    """A text that may repeat what a caller sent, as UTF-8 can hold it: JSON can escape half of a character."""
    return text.encode("utf-8", "backslashreplace").decode()
