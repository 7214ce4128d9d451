"""What is to be embedded: texts and images, as applications write them in JSON.

Between the body of a request and the client on the way SavedModel -> server -> [gateway] -> application. An image is a
data URI (RFC 2397), or base64 where nothing but an image can stand. An image that is broken is a Flaw: it fails alone,
and its neighbours are answered. A request that is made wrong is a Refusal.
"""

import base64
import binascii
import dataclasses
import re
from typing import Any

from serving.gateway_body import check_text, kind
from serving.gateway_errors import invalid

_DATA_URI = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_URL = re.compile(r"\s*(https?|ftp|file|s3|gs):", re.IGNORECASE)
_LONGEST_TEXT = 8192  # characters; a text tower reads some dozens of words
_LONGEST_HEADER = 256  # characters of a data URI before its data
_NO_URLS = (
    "is a URL, and the gateway fetches none: through it a caller could reach what only the gateway can reach. Send the "
    "image itself, as data:image/jpeg;base64,..."
)


@dataclasses.dataclass(frozen=True)
class Flaw:
    """An image that is none, and why."""

    reason: str


Item = str | bytes | Flaw


def read_items(value: Any, param: str, limit: int) -> list[Item]:
    """The items of a field that is one item or a list of them.

    An item is a string, a text or an image's data URI, or an object {"text": ...} or {"image": ...}.

    Raises:
        Refusal: no item or more than `limit`, or what is no item.
    """
    if not isinstance(value, list):
        return [read_item(value, param)]
    _check_count(len(value), param, limit)
    return [read_item(item, f"{param}[{index}]") for index, item in enumerate(value)]


def read_images(value: Any, param: str, limit: int) -> list[Item]:
    """The items of a list of images, each a data URI or base64.

    Raises:
        Refusal: as read_items.
    """
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        raise invalid(f"{param} is {kind(value)}; expected a list of images, as data URIs or base64", param)
    _check_count(len(values), param, limit)
    return [_image(image, f"{param}[{index}]") for index, image in enumerate(values)]


def read_item(value: Any, param: str) -> Item:
    """One item; see read_items."""
    if isinstance(value, str):
        if value[:5].lower() == "data:":
            return _image(value, param)
        if _URL.match(value):
            raise invalid(f'{param} {_NO_URLS}. If it is meant as a text, send {{"text": ...}}', param, "url_refused")
        return _text(value, param)
    if isinstance(value, dict) and len(value) == 1:
        if "text" in value:
            return _text(value["text"], f"{param}.text")
        if "image" in value:
            return _image(value["image"], f"{param}.image")
    hint = "; tokens are not taken, send the text" if isinstance(value, int | list) else ""
    raise invalid(
        f"{param} is {kind(value)}; expected a string, a text or a data URI of an image, or an object "
        f'{{"text": ...}} or {{"image": ...}}{hint}',
        param,
    )


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"{param} is {kind(value)}; expected a string", param)
    if not value.strip():
        raise invalid(f"{param} is an empty text", param)
    check_text(value, param, _LONGEST_TEXT)
    return value


def _image(value: Any, param: str) -> bytes | Flaw:
    if not isinstance(value, str):
        raise invalid(f"{param} is {kind(value)}; expected an image as a data URI or base64", param)
    if _URL.match(value):
        raise invalid(f"{param} {_NO_URLS}", param, "url_refused")
    start = 0
    if value[:5].lower() == "data:":
        header = _DATA_URI.match(value, 0, _LONGEST_HEADER)
        if header is None:
            return Flaw("it is no data URI; expected data:image/jpeg;base64,...")
        if ";base64" not in header[2].lower():
            return Flaw("its data URI is not in base64; expected data:image/jpeg;base64,...")
        if header[1] and not header[1].lower().startswith(("image/", "application/octet-stream")):
            return Flaw(f"its data URI is of the type {header[1][:64]}; expected an image's")
        start = header.end()
    return _decoded(value[start:])


def _decoded(text: str) -> bytes | Flaw:
    """The bytes of base64, in which there may be line ends."""
    try:
        decoded = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        return Flaw("it is no base64")
    return decoded or Flaw("it is empty")


def _check_count(count: int, param: str, limit: int) -> None:
    if count == 0:
        raise invalid(f"{param} is an empty list; expected at least one item", param)
    if count > limit:
        raise invalid(
            f"{param} has {count} items; expected at most {limit}. Send several requests", param, "too_many_items"
        )
