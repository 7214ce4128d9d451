"""/v1/classes: label sets, put, shown and deleted by name.

Routes of the gateway on the way SavedModel -> server -> [gateway] -> application, over gateway_label_sets.py (the
files) and gateway_banks.py (the vectors). A set is embedded when it is put, and again when the served space changes.
"""

import asyncio
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.gateway_banks import Banks
from serving.gateway_body import Fields, Limits, read_json, strings
from serving.gateway_errors import Refusal, invalid
from serving.gateway_label_sets import NAME, LabelSet, LabelSets
from vit22b.prompts import find_templates, prompts

_FIELDS = ("classes", "templates")
_TEMPLATES = ("general",)
_TEMPLATES_LIMIT = 200  # CLIP's longest list has 80
_LONGEST = 200  # characters of a class's name, and of a template
_PROMPTS_LIMIT = 100_000  # ImageNet's 1,000 classes in 80 templates are 80,000


class ClassRoutes:
    """The routes.

    Args:
        banks: embed the classes.
        sets: where they are kept; None where they are not.
        limits: of a request.
    """

    def __init__(self, banks: Banks, sets: LabelSets | None, limits: Limits):
        self._banks, self._sets, self._limits = banks, sets, limits

    def routes(self) -> list[Route]:
        """The routes, for the application."""
        path = "/v1/classes/{name}"
        return [
            Route("/v1/classes", self.list, methods=["GET"]),
            Route(path, self.get, methods=["GET"]),
            Route(path, self.put, methods=["PUT"]),
            Route(path, self.delete, methods=["DELETE"]),
        ]

    async def list(self, request: Request) -> Response:  # noqa: ARG002 - a route's signature
        """The names of all sets, with the numbers of their classes."""
        data = [] if self._sets is None else await asyncio.to_thread(_listed, self._sets)
        return JSONResponse({"object": "list", "data": data})

    async def get(self, request: Request) -> Response:
        """A set."""
        labels = await asyncio.to_thread(find_set, self._sets, request.path_params["name"])
        return await self._shown(labels, 200)

    async def put(self, request: Request) -> Response:
        """Embeds classes and keeps them under a name, in the place of what it had."""
        sets, name = kept(self._sets), request.path_params["name"]
        if not NAME.fullmatch(name):
            text = f"the name is {name[:64]!r}; expected 1 to 64 letters, digits and _ . -, the first a letter or digit"
            raise invalid(text, "name")
        fields = Fields(await read_json(request, self._limits.body_bytes), _FIELDS)
        labels = read_labels(fields, self._limits.classes, name=name)
        space_id, vectors = await self._banks.embed(labels)
        try:
            new = await asyncio.to_thread(sets.put, labels, space_id, vectors)
        except OSError as error:
            raise Refusal(500, f"the label set cannot be kept: {error.strerror}", "storage_failed") from error
        return await self._shown(labels, 201 if new else 200)

    async def delete(self, request: Request) -> Response:
        """Removes a set."""
        sets, name = kept(self._sets), request.path_params["name"]
        try:
            found = NAME.fullmatch(name) and await asyncio.to_thread(sets.delete, name)
        except OSError as error:
            raise Refusal(500, f"the label set cannot be removed: {error.strerror}", "storage_failed") from error
        if not found:
            raise _unknown(name)
        return JSONResponse({"object": "class_set", "name": name, "deleted": True})

    async def _shown(self, labels: LabelSet, status: int) -> Response:
        spaces = await asyncio.to_thread(kept(self._sets).spaces, labels)
        return JSONResponse(
            {
                "object": "class_set",
                "name": labels.name,
                "classes": labels.classes,
                "templates": labels.templates,
                "created": labels.created,
                "spaces": spaces,
            },
            status,
        )


def read_labels(fields: Fields, limit: int, name: str = "") -> LabelSet:
    """The label set of a request's classes and templates.

    Raises:
        Refusal: no classes or more than `limit`, a class twice, what is no template, or too much of anything.
    """
    classes = strings(fields.required("classes"), "classes", limit, _LONGEST)
    given = fields.get("templates")
    given = [given] if isinstance(given, str) else given
    try:
        found = find_templates(_TEMPLATES if given is None else strings(given, "templates", _TEMPLATES_LIMIT, _LONGEST))
    except ValueError as error:
        raise invalid(str(error), "templates") from error
    templates = tuple(dict.fromkeys(found))
    if len(classes) * len(templates) > _PROMPTS_LIMIT:
        text = (
            f"{len(classes)} classes in {len(templates)} templates are {len(classes) * len(templates)} texts; at most "
            f"{_PROMPTS_LIMIT} are taken. Give fewer classes or templates"
        )
        raise invalid(text, "templates", "too_many_items")
    try:
        prompts(classes, templates[:1])
    except ValueError as error:
        raise invalid(str(error), "classes") from error
    return LabelSet(classes, templates, name, int(time.time()))


def find_set(sets: LabelSets | None, name: str) -> LabelSet:
    """The label set of a name; reads files.

    Raises:
        Refusal: there is none (404), or its file is damaged (500).
    """
    if not NAME.fullmatch(name):
        raise _unknown(name)
    try:
        labels = kept(sets).get(name)
    except ValueError as error:
        raise Refusal(500, str(error), "storage_failed") from error
    if labels is None:
        raise _unknown(name)
    return labels


def kept(sets: LabelSets | None) -> LabelSets:
    """The label sets; a Refusal where the gateway keeps none."""
    if sets is None:
        raise Refusal(501, "this gateway keeps no label sets; start it with --classes_dir DIRECTORY", "no_label_sets")
    return sets


def _listed(sets: LabelSets) -> list[dict[str, Any]]:
    """What is said of every set in a list of them; of a damaged one, why it is."""
    found: list[dict[str, Any]] = []
    for name in sets.names():
        entry = {"object": "class_set", "name": name}
        try:
            labels = sets.get(name)
        except ValueError as error:
            found.append(entry | {"error": str(error)})
        else:
            if labels is not None:
                found.append(entry | {"count": len(labels.classes), "created": labels.created})
    return found


def _unknown(name: str) -> Refusal:
    return Refusal(404, f"there is no label set {name[:64]!r}; GET /v1/classes lists them", "class_set_not_found")
