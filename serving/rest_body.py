"""The JSON object that a REST request consists of, before anyone knows what it is about.

Between json_reader.py and what an API makes of the object (rest_predict.py, rest_examples.py) on the way client ->
server -> SavedModel. Texts are TensorFlow Serving's.
"""

import zlib
from typing import Any

import tensorflow as tf

from serving import json_reader
from serving.json_tokens import JsonError, encode
from serving.json_writer import quote
from serving.status import invalid

_GZIP = 16 + zlib.MAX_WBITS  # zlib's way to say that there is gzip's header
_MAX_INFLATED = 100 * 2**20  # bytes


class TooLargeError(tf.errors.ResourceExhaustedError):
    """A body beyond --max_message_bytes, which is 413 over HTTP."""

    def __init__(self, size: str, limit: int):
        super().__init__(None, None, f"Received message larger than max ({size} vs. {limit})")


def inflate(content: bytes, encoding: str, limit: int = 0) -> bytes:
    """A body as it was before it was sent; empty if it is not what its Content-Encoding says, or beyond 100 MiB.

    Args:
        content: as it was sent.
        encoding: the Content-Encoding.
        limit: bytes that the body may have; 0 for as many as there are.

    Raises:
        TooLargeError: it has more.
    """
    if not content or "gzip" not in encoding:
        return content
    inflater = zlib.decompressobj(_GZIP)
    most = min(limit or _MAX_INFLATED, _MAX_INFLATED)
    try:
        inflated = inflater.decompress(content, most + 1)
    except zlib.error:
        return b""
    if len(inflated) > most:
        if most == limit:
            raise TooLargeError("more, once it is inflated,", limit)
        return b""
    return inflated if inflater.eof else b""


def parse(content: bytes) -> dict[str, Any]:
    """The object of a body.

    Raises:
        tf.errors.InvalidArgumentError: it is no JSON, or no object.
    """
    try:
        document = json_reader.read(content)
    except JsonError as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise malformed(document, "Is not object")
    return document


def signature_name(document: dict[str, Any]) -> str:
    """The signature that a request names; empty for the default one.

    Raises:
        tf.errors.InvalidArgumentError: the name is no string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise malformed(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return proper(name)


def proper(text: str) -> str:
    """A text as a message's string holds it: what is no UTF-8 is replaced."""
    return encode(text).decode("utf-8", "replace")


def type_name(value: Any) -> str:
    """The type of a value, as RapidJSON's users print it."""
    if isinstance(value, bool) or value is None:
        return {True: "True", False: "False", None: "Null"}[value]
    if isinstance(value, dict):
        return "Object"
    return {list: "Array", str: "String"}.get(type(value), "Number")


def is_base64(value: Any) -> bool:
    """Whether a value stands for bytes: an object with one member, "b64", that is a string."""
    return type(value) is dict and len(value) == 1 and isinstance(value.get("b64"), str)


def malformed(value: Any, text: str) -> tf.errors.InvalidArgumentError:
    """An error about a value, which it quotes."""
    return invalid(f"JSON Value: {quote(value)} {text}")
