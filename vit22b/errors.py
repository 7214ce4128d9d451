"""What can go wrong between a client and a server: one small tree of exceptions, one table from gRPC's codes to it.

Last on the walk image -> batch -> state -> checkpoint -> SavedModel -> server -> client. A wrong argument (an address
without a port, an empty class list) is a ValueError; what the other side or the network did is a VitError.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import grpc


@dataclasses.dataclass(frozen=True)
class Failure:
    """One image that was not embedded.

    Attributes:
        index: its place in the input.
        name: its path, or `image <index>` for bytes.
        reason: why, in words.
    """

    index: int
    name: str
    reason: str


class VitError(Exception):
    """A call that failed; the base of all of them.

    Attributes:
        message: what went wrong, in the server's words where it gave any.
        code: name of the gRPC status code, for instance "NOT_FOUND".
        address: the server that was asked.
        model: the model that was asked for.
        attempts: how often it was asked, hedges included.
        remedy: what to do about it.
    """

    def __init__(self, message: str, *, code: str, address: str, model: str, remedy: str, attempts: int = 1) -> None:
        tries = f", {attempts} attempts" if attempts > 1 else ""
        super().__init__(f"{message} ({code}, model {model} at {address}{tries}); {remedy}")
        self.message = message
        self.code, self.address, self.model, self.remedy, self.attempts = code, address, model, remedy, attempts

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is else made again from its text alone, which a process pool does with those of its workers.
        return _restored, (type(self), str(self), vars(self))


class UnreachableError(VitError):
    """There is no server at the address, or the connection to it broke."""


class NotServedError(VitError):
    """The server does not have the model, or not that version of it."""


class DeadlineError(VitError):
    """The answer did not come in time."""


class OverloadedError(VitError):
    """The server refuses work for now: no free thread, or a full queue."""


class RequestError(VitError):
    """The server understood the request and refuses it."""


class ServerError(VitError):
    """The server failed at a request that it accepted."""


class SpaceError(VitError):
    """Vectors of two embedding spaces, or answers of two versions, would have been mixed."""


class SpaceChangedError(SpaceError):
    """The served version has gone in the middle of a job, and the one that is served now has another space."""


class ImageError(VitError):
    """Images that cannot be read or decoded.

    Attributes:
        failures: one for each of them.
    """

    def __init__(self, failures: Sequence[Failure], *, address: str, model: str) -> None:
        shown = "; ".join(f"{failure.name} (index {failure.index}): {failure.reason}" for failure in failures[:3])
        more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
        super().__init__(
            f"{shown}{more}",
            code="INVALID_ARGUMENT",
            address=address,
            model=model,
            remedy="repair or leave out what is named, or ask for the others with on_error='skip'",
        )
        self.failures = tuple(failures)


def _restored(kind: type[VitError], text: str, fields: dict[str, Any]) -> VitError:
    error = kind.__new__(kind, text)
    vars(error).update(fields)
    return error


_START = "start a model server there, or give the address and port of one"
_REFUSED = "see what the model takes with Client.describe()"
_TABLE: dict[grpc.StatusCode, tuple[type[VitError], str]] = {
    grpc.StatusCode.UNAVAILABLE: (UnreachableError, _START),
    grpc.StatusCode.NOT_FOUND: (NotServedError, "give the name, and if any the version, of a model that it serves"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (DeadlineError, "give a longer timeout, or ask for fewer rows at once"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (OverloadedError, "send fewer rows or requests at once, or try again later"),
    grpc.StatusCode.INVALID_ARGUMENT: (RequestError, _REFUSED),
    grpc.StatusCode.FAILED_PRECONDITION: (RequestError, _REFUSED),
    grpc.StatusCode.OUT_OF_RANGE: (RequestError, _REFUSED),
    grpc.StatusCode.UNIMPLEMENTED: (RequestError, "give the gRPC port of a TensorFlow Serving server"),
    grpc.StatusCode.UNAUTHENTICATED: (RequestError, "give a key that the server knows by api_key"),
    grpc.StatusCode.PERMISSION_DENIED: (RequestError, "give a key that may do this"),
    grpc.StatusCode.CANCELLED: (UnreachableError, "ask again: the server's port has closed"),
}
_OTHER = (ServerError, "look into the server's log")

# TensorFlow Serving's words for having no thread and no place in its queue. Other causes have the same codes: a server
# that is away, a message over a size limit, memory that ran out.
_OVERLOAD = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "Server Threadpool Exhausted",
    grpc.StatusCode.UNAVAILABLE: "batch scheduling queue",
}


def is_overload(code: grpc.StatusCode, details: str) -> bool:
    """Whether the server is there and has refused work because it has too much of it."""
    return code in _OVERLOAD and _OVERLOAD[code] in details


def from_status(code: grpc.StatusCode, details: str, *, address: str, model: str, attempts: int = 1) -> VitError:
    """The exception for a gRPC status.

    Args:
        code: anything but OK.
        details: the server's or gRPC's own words; the first 300 characters are kept, on one line.
        address: the server that was asked.
        model: the model that was asked for.
        attempts: how often it was asked.
    """
    kind, remedy = _TABLE.get(grpc.StatusCode.RESOURCE_EXHAUSTED if is_overload(code, details) else code, _OTHER)
    message = " ".join(details.split())[:300] or "the server gave no reason"
    return kind(message, code=code.name, address=address, model=model, remedy=remedy, attempts=attempts)
