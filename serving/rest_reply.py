"""What the REST API answers, apart from HTTP's own headers; and which status of HTTP a failure has.

Under rest_api.py and rest_handler.py on the way client -> server -> SavedModel. Statuses and texts are TensorFlow
Serving's.
"""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from serving import json_writer
from serving.rest_body import TooLargeError

_STATUSES = {
    tf.errors.CANCELLED: 499,
    tf.errors.UNKNOWN: 500,
    tf.errors.INVALID_ARGUMENT: 400,
    tf.errors.DEADLINE_EXCEEDED: 504,
    tf.errors.NOT_FOUND: 404,
    tf.errors.ALREADY_EXISTS: 409,
    tf.errors.PERMISSION_DENIED: 403,
    tf.errors.RESOURCE_EXHAUSTED: 429,
    tf.errors.FAILED_PRECONDITION: 400,
    tf.errors.ABORTED: 409,
    tf.errors.OUT_OF_RANGE: 400,
    tf.errors.UNIMPLEMENTED: 501,
    tf.errors.INTERNAL: 500,
    tf.errors.UNAVAILABLE: 503,
    tf.errors.DATA_LOSS: 500,
    tf.errors.UNAUTHENTICATED: 401,
}
TOO_LARGE = 413
_TIMED_OUT = "Timed out waiting for notification"


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer of HTTP: its status, its body, and headers besides those of every answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def failure(error: tf.errors.OpError) -> Reply:
    """The reply to a request that failed."""
    if isinstance(error, TooLargeError):
        return Reply(TOO_LARGE, json_writer.error(error.message))
    text = _TIMED_OUT if error.error_code == tf.errors.DEADLINE_EXCEEDED else error.message
    headers = {"Retry-After": "1"} if error.error_code == tf.errors.RESOURCE_EXHAUSTED else {}
    return Reply(_STATUSES.get(error.error_code, 500), json_writer.error(text), headers)
