"""What the gateway's OpenAPI document says of an answer, for the tests: each is held to it."""

import functools
import json
import re
from pathlib import Path
from urllib.parse import unquote

import jsonschema
import referencing
from referencing.jsonschema import DRAFT202012

DOCUMENT = Path(__file__).parents[1] / "serving" / "web" / "openapi.json"
_URI = "urn:openapi"


@functools.cache
def document() -> dict:
    return json.loads(DOCUMENT.read_text())


def operation(method: str, path: str) -> dict | None:
    """What is said of a method of a path; None for one that is not in the document."""
    for pattern, item in document()["paths"].items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(pattern)), unquote(path)):
            return item.get(method.lower())
    return None


def check(method: str, path: str, status: int, content_type: str, body: bytes) -> None:
    """Fails the test unless an answer is one that the document announces."""
    told = operation(method, path)
    if told is None:
        return
    assert str(status) in told["responses"], f"{method} {path} answered {status}, of which the document says nothing"
    response = _resolved(told["responses"][str(status)])
    ((expected, media),) = response["content"].items()
    assert content_type.partition(";")[0] == expected
    if expected == "application/json":
        _validator(json.dumps(media["schema"])).validate(json.loads(body))


@functools.cache
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    """Of a schema, whose references are within the document."""
    registry = referencing.Registry().with_resource(_URI, DRAFT202012.create_resource(document()))
    absolute = json.loads(schema, object_hook=_absolute)
    return jsonschema.Draft202012Validator(absolute, registry=registry)


def _absolute(value: dict) -> dict:
    return {name: f"{_URI}{text}" if name == "$ref" else text for name, text in value.items()}


def _resolved(value: dict) -> dict:
    if "$ref" not in value:
        return value
    found = document()
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found
