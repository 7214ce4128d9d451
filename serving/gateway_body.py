"""The body of a request: asked for its size before it is read, read as JSON or as a form, and taken apart by fields.

Between the port and the gateway's routes on the way SavedModel -> server -> [gateway] -> application. Whatever is wrong
is a Refusal that names the field.
"""

import dataclasses
import difflib
import json
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from email.message import Message
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serving.gateway_errors import Refusal, invalid

JSON = "application/json"
FORM = "multipart/form-data"
_MAX_PARTS = 10_000  # of a form; the routes have lower bounds of their own
_ECHOED = 64  # characters of what came that an error repeats
_CHARSETS = ("utf-8", "utf8", "us-ascii")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may have.

    Attributes:
        body_bytes: of its body.
        items: texts and images.
        classes: class names.
    """

    body_bytes: int = 32 * 2**20
    items: int = 2048
    classes: int = 10_000


async def read_json(request: Request, max_bytes: int) -> Any:
    """The value of a JSON body.

    Raises:
        Refusal: another content type (415), more than max_bytes (413), no JSON (400).
    """
    check_content_type(request, JSON)
    chunks = [chunk async for chunk in _bounded(request, max_bytes)]
    try:
        return json.loads(b"".join(chunks))
    except (ValueError, RecursionError) as error:
        # ValueError is what is no JSON, and what is no UTF-8.
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise invalid(f"the body is no JSON: {reason}", None, "invalid_json") from error


async def read_form(request: Request, max_bytes: int) -> list[tuple[str, str | bytes]]:
    """The fields of a multipart form, in order: text of a plain field, bytes of a file.

    Raises:
        Refusal: as read_json.
    """
    check_content_type(request, FORM)
    _check_charset(request)
    parser = _WholeForm(
        request.headers,
        _bounded(request, max_bytes),
        max_files=_MAX_PARTS,
        max_fields=_MAX_PARTS,
        max_part_size=max_bytes,
    )
    # A file stays in memory, as a JSON body does; the bound is that of the body.
    parser.spool_max_size = max_bytes + 1
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise invalid(f"the body is no form: {error.message}", None, "invalid_form") from error
    try:
        return [
            (name, value.file.read() if isinstance(value, UploadFile) else value) for name, value in form.multi_items()
        ]
    finally:
        await form.close()


class _WholeForm(MultiPartParser):
    """A parser that refuses a form without its end: Starlette's takes one that was cut for a shorter one."""

    _ended = False

    def on_end(self) -> None:
        self._ended = True

    async def parse(self) -> FormData:
        self.stream = self._to_the_end(self.stream)
        return await super().parse()

    async def _to_the_end(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            yield chunk
        if not self._ended:  # raised from here, since parse() closes its files at errors of its stream
            raise MultiPartException("it ends before its closing boundary; send it whole")


def is_form(request: Request) -> bool:
    """Whether the body is announced as a multipart form."""
    return _content_type(request) == FORM


def check_content_type(request: Request, expected: str) -> None:
    """Raises a Refusal (415) unless the body is announced as `expected`, and as it is, not compressed."""
    found = _content_type(request)
    if found != expected:
        message = f"the content type is {found[:_ECHOED] or 'not given'}; expected {expected}"
        raise Refusal(415, message, "unsupported_content_type")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        message = f"the content encoding is {coding[:_ECHOED]}; send the body as it is"
        raise Refusal(415, message, "unsupported_content_encoding")


class Fields:
    """The fields of a JSON object; every field is read once, by its type."""

    def __init__(self, value: Any, known: Collection[str]):
        """Takes an object that has no other fields than the known.

        Raises:
            Refusal: no object, or an unknown field, with the nearest known one.
        """
        if not isinstance(value, dict):
            raise invalid(f"the body is {kind(value)}; expected an object with the fields {_listed(known)}", None)
        for name in value:
            if name not in known:
                near = difflib.get_close_matches(name[:_ECHOED], known, 1)
                hint = f"did you mean {near[0]}?" if near else f"the fields are {_listed(known)}"
                raise invalid(f"there is no field {name[:_ECHOED]!r}; {hint}", name[:_ECHOED], "unknown_field")
        self._values: Mapping[str, Any] = value

    def get(self, name: str) -> Any:
        """A field as it is; None where it is missing or null."""
        return self._values.get(name)

    def required(self, name: str) -> Any:
        """A field as it is; a Refusal where it is missing or null."""
        value = self.get(name)
        if value is None:
            raise invalid(f"the field {name} is missing", name, "missing_field")
        return value

    def text(self, name: str) -> str | None:
        """A field that is a text, or None."""
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid(f"{name} is {kind(value)}; expected a string", name)
        return value

    def whole(self, name: str, low: int, high: int) -> int | None:
        """A field that is a whole number from low to high, or None."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            shown = value if isinstance(value, int | float) and not isinstance(value, bool) else kind(value)
            raise invalid(f"{name} is {str(shown)[:_ECHOED]}; expected a whole number from {low} to {high}", name)
        return value

    def choice(self, name: str, options: Sequence[str]) -> str:
        """A field that is one of the options; the first where it is missing."""
        value = self.text(name)
        if value is None:
            return options[0]
        if value not in options:
            raise invalid(f"{name} is {value[:_ECHOED]!r}; expected one of {_listed(options)}", name)
        return value

    def check_model(self, model: str) -> None:
        """Raises a Refusal (404) for another model than the served one; a request may name none."""
        asked = self.text("model")
        if asked not in (None, model):
            text = f"there is no model {asked[:_ECHOED]!r} here; this gateway has {model!r} (GET /v1/models)"
            raise Refusal(404, text, "model_not_found", param="model")


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def strings(value: Any, param: str, limit: int, longest: int) -> tuple[str, ...]:
    """A list of texts of at most `longest` characters, at least 1 and at most `limit`; a Refusal for anything else."""
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else kind(value)
        raise invalid(f"{param} is {found}; expected a list of strings", param)
    if len(value) > limit:
        raise invalid(f"{param} has {len(value)} strings; expected at most {limit}", param, "too_many_items")
    for index, text in enumerate(value):
        if not isinstance(text, str):
            raise invalid(f"{param}[{index}] is {kind(text)}; expected a string", f"{param}[{index}]")
        check_text(text, f"{param}[{index}]", longest)
    return tuple(value)


def check_text(text: str, param: str, longest: int) -> None:
    """Raises a Refusal for a text that is too long, or that UTF-8 cannot hold: JSON can escape half of a character."""
    if len(text) > longest:
        raise invalid(f"{param} has {len(text)} characters; expected at most {longest}", param)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(f"{param} holds half of a character, {text[error.start]!a}", param) from error


async def _bounded(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The chunks of a body, which is refused before it is read if it says that it is too large."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(f"{int(announced)} bytes", max_bytes)
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > max_bytes:
            raise _too_large("longer than that", max_bytes)
        yield chunk


def _too_large(found: str, max_bytes: int) -> Refusal:
    message = f"the body is {found}; at most {max_bytes} bytes are taken. Send fewer items at once"
    return Refusal(413, message, "body_too_large")


def _check_charset(request: Request) -> None:
    """Raises a Refusal for a form in other characters than UTF-8: some of Python's codecs make half characters."""
    header = Message()
    header["content-type"] = request.headers["content-type"]
    charset = str(header.get_param("charset", "utf-8")).lower()
    if charset not in _CHARSETS:
        raise invalid(f"the form's charset is {charset[:_ECHOED]}; expected utf-8", None, "invalid_form")


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _listed(names: Collection[str]) -> str:
    return ", ".join(names)
