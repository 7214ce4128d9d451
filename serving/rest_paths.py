"""The paths of the REST API: which method of which model a request is for.

The first thing that is read of a REST request on the way client -> server -> SavedModel. Paths are compared as
TensorFlow Serving compares them: with the query as a part of them, and regardless of case except in the last word.
"""

import dataclasses
import re
from urllib.parse import unquote

from tensorflow_serving.apis import model_pb2

PREFIX = re.compile(r"/v1/.*", re.IGNORECASE)
_MODEL = r"(?:(?:/versions/(?P<version>\d+))|(?:/labels/(?P<label>[^/:]+)))?"
_POST = re.compile(rf"/v1/models/(?P<name>[^/:]+){_MODEL}:(?P<verb>classify|regress|predict)", re.ASCII | re.IGNORECASE)
_GET = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_MODEL}(?:/(?P<verb>metadata))?", re.ASCII | re.IGNORECASE)
_APIS = {"classify": "Classify", "regress": "Regress", "predict": "Predict"}
_INT64_MAX = 2**63 - 1
_INT64_DIGITS = 19


@dataclasses.dataclass(frozen=True)
class Route:
    """What a path names.

    Attributes:
        api: Predict, Classify, Regress, GetModelStatus, GetModelMetadata; empty for a path that names none.
        model: empty if the path names none.
        version: of the model, if the path has one.
        label: of a version, if the path has one.
        error: why there is no answer; None if there may be one. The real server says nothing of a version that is
            too large.
    """

    api: str = ""
    model: str = ""
    version: int | None = None
    label: str | None = None
    error: str | None = None

    @property
    def is_work(self) -> bool:
        """Whether an answer takes a model's time."""
        return self.api in _APIS.values()

    @property
    def spec(self) -> model_pb2.ModelSpec:
        """The model as a message of the API names it."""
        spec = model_pb2.ModelSpec(name=self.model)
        if self.version is not None:
            spec.version.value = self.version
        elif self.label is not None:
            spec.version_label = self.label
        return spec


def parse(method: str, path: str) -> Route:
    """The route of a request.

    Args:
        method: of HTTP, in capitals.
        path: as it was sent, with its escapes and its query.
    """
    malformed = f"Malformed request: {method} {path}"
    match = {"POST": _POST, "GET": _GET}[method].fullmatch(path) if method in ("GET", "POST") else None
    if match is None:
        return Route(error=malformed)
    model, label, verb = unquote(match["name"] or ""), match["label"], match["verb"]
    version = None if match["version"] is None else _number(match["version"])
    if version is not None and version > _INT64_MAX:
        return Route(model=model, error="")
    if label is not None:
        label = unquote(label)
    if method == "POST":
        api = _APIS.get(verb, "")
        return Route(api, model, version, label, None if api else malformed)
    api = "GetModelMetadata" if verb == "metadata" else "GetModelStatus"
    return Route(api, model, version, label, None if model else "Missing model name in request.")


def _number(digits: str) -> int:
    """A number; of one with more digits than any version has, only as many as show that it is too large."""
    return int(digits.lstrip("0")[: _INT64_DIGITS + 1] or "0")
