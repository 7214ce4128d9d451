"""Statuses: the errors that a caller gets, made of a text, and texts made of them.

Under every module of the server on the way SavedModel -> server -> client. TensorFlow's exceptions stand for the codes
of gRPC; their message is the text that the caller sees.
"""

import tensorflow as tf

THREADS = "Server Threadpool Exhausted"  # no thread is free for a call
LATE = "Deadline Exceeded"

_CODES = {value: name for name, value in vars(tf.errors).items() if name.isupper() and isinstance(value, int)}
_OF_FILES = {
    PermissionError: tf.errors.PermissionDeniedError,
    FileNotFoundError: tf.errors.NotFoundError,
    IsADirectoryError: tf.errors.FailedPreconditionError,
    NotADirectoryError: tf.errors.FailedPreconditionError,
}


def invalid(text: str) -> tf.errors.InvalidArgumentError:
    """INVALID_ARGUMENT: the request is wrong, whatever the server's state."""
    return tf.errors.InvalidArgumentError(None, None, text)


def not_found(text: str) -> tf.errors.NotFoundError:
    """NOT_FOUND: no such model, version or file."""
    return tf.errors.NotFoundError(None, None, text)


def unmet(text: str) -> tf.errors.FailedPreconditionError:
    """FAILED_PRECONDITION: what is asked does not go with what is served."""
    return tf.errors.FailedPreconditionError(None, None, text)


def internal(text: str) -> tf.errors.InternalError:
    """INTERNAL: the request could not be read, or the server has a defect."""
    return tf.errors.InternalError(None, None, text)


def defect() -> tf.errors.InternalError:
    """INTERNAL, of what went wrong with the server and not with the request."""
    return internal("The server failed at this request; its log says why")


def exhausted(text: str = THREADS) -> tf.errors.ResourceExhaustedError:
    """RESOURCE_EXHAUSTED: a limit is reached; by default, that of the threads."""
    return tf.errors.ResourceExhaustedError(None, None, text)


def late() -> tf.errors.DeadlineExceededError:
    """DEADLINE_EXCEEDED, of a request whose time is up."""
    return tf.errors.DeadlineExceededError(None, None, LATE)


def cancelled() -> tf.errors.CancelledError:
    """CANCELLED, of a request whose caller has gone."""
    return tf.errors.CancelledError(None, None, "CANCELLED")


def of_file(error: OSError) -> tf.errors.OpError:
    """What the file system says, as the status that TensorFlow makes of it."""
    kind = _OF_FILES.get(type(error), tf.errors.UnknownError)
    return kind(None, None, f"{error.filename}; {error.strerror}" if error.filename else str(error))


def going_down() -> tf.errors.UnavailableError:
    """UNAVAILABLE, of a request that comes when the server takes no more."""
    return tf.errors.UnavailableError(None, None, "The server is going down")


def code_name(code: int) -> str:
    """A code as TensorFlow prints it: NOT_FOUND."""
    return _CODES.get(code, "UNKNOWN")


def status_text(error: tf.errors.OpError) -> str:
    """A status as TensorFlow prints it: the code's name and the text."""
    return f"{code_name(error.error_code)}: {error.message}"
