"""POST /v1/classify: images in, classes that are given by name out, without training.

A route of the gateway on the way SavedModel -> server -> [gateway] -> application. Images come as JSON or as the files
of a multipart form, classes as a list or by the name of a label set. docs/gateway.md has it for readers.
"""

import asyncio
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.gateway_banks import Banks
from serving.gateway_body import Fields, Limits, is_form, read_form, read_json
from serving.gateway_classes import find_set, read_labels
from serving.gateway_errors import as_json, invalid
from serving.gateway_items import Item, read_images
from serving.gateway_label_sets import LabelSet, LabelSets
from serving.gateway_upstream import Floats

_FIELDS = ("images", "classes", "templates", "top", "model", "user")
_FORM_FIELDS = (*_FIELDS, "class_set")
_TOP = 5  # classes that an image is answered with, unless more or fewer are asked for


class ClassifyRoute:
    """The route.

    Args:
        model: the name of the served model.
        banks: score the images.
        sets: that classes may be named by; None where there are none.
        limits: of a request.
    """

    def __init__(self, model: str, banks: Banks, sets: LabelSets | None, limits: Limits):
        self._model, self._banks, self._sets, self._limits = model, banks, sets, limits

    def routes(self) -> list[Route]:
        """The route, for the application."""
        return [Route("/v1/classify", self.classify, methods=["POST"])]

    async def classify(self, request: Request) -> Response:
        """The best classes of every image."""
        if is_form(request):
            fields, images = await self._read_form(request)
        else:
            fields = Fields(await read_json(request, self._limits.body_bytes), _FIELDS)
            images = read_images(fields.required("images"), "images", self._limits.items)
        fields.check_model(self._model)
        labels = await self._labels(fields)
        top = fields.whole("top", 1, self._limits.classes) or _TOP
        found, scores = await self._banks.score(images, labels)
        request.state.visit.note(images, found.failed, found.version)
        reasons = {failure["index"]: failure["reason"] for failure in as_json(found.failures)}
        data = [
            {"object": "error", "index": index, "error": {"message": reasons[index], "code": "bad_image"}}
            if index in reasons
            else {"object": "classification", "index": index, "top": _best(scores[index], labels, top)}
            for index in range(len(images))
        ]
        answer = {"object": "list", "data": data, "model": self._model, "templates": labels.templates}
        return JSONResponse(answer | found.origin())

    async def _labels(self, fields: Fields) -> LabelSet:
        classes = fields.required("classes")
        if not isinstance(classes, str):
            return read_labels(fields, self._limits.classes)
        if fields.get("templates") is not None:
            text = f"the classes are the label set {classes[:64]!r}, which has templates of its own; leave these out"
            raise invalid(text, "templates")
        return await asyncio.to_thread(find_set, self._sets, classes)

    async def _read_form(self, request: Request) -> tuple[Fields, list[Item]]:
        """The fields of a form: images are files, classes and templates may be given several times.

        A form cannot tell a list of one class from a text: a label set has a field of its own, class_set.
        """
        images: list[Item] = []
        values: dict[str, Any] = {}
        for name, value in await read_form(request, self._limits.body_bytes):
            if isinstance(value, bytes) != (name == "images"):
                expected = "a file" if name == "images" else "a plain field"
                text = f"the form's field {name[:64]} is no {expected.partition(' ')[2]}; expected {expected}"
                raise invalid(text, name[:64])
            if isinstance(value, bytes):
                images.append(value)
            elif name in ("classes", "templates"):
                values.setdefault(name, []).append(value)
            else:
                values[name] = value
        fields = Fields(_of_form(values), _FORM_FIELDS)
        if not 1 <= len(images) <= self._limits.items:
            text = f"the form has {len(images)} files named images; expected 1 to {self._limits.items}"
            raise invalid(text, "images", "too_many_items" if images else "missing_field")
        return fields, images


def _of_form(values: dict[str, Any]) -> dict[str, Any]:
    """The values as JSON would have them: classes are a list or the name of a label set, and top is a number."""
    if "class_set" in values:
        if "classes" in values:
            raise invalid("the form has classes and a class_set; expected one of them", "class_set")
        values["classes"] = values["class_set"]
    if "top" in values:
        try:
            values["top"] = int(values["top"])
        except ValueError as error:
            raise invalid(f"top is {values['top'][:64]!r}; expected a whole number", "top") from error
    return values


def _best(scores: Floats, labels: LabelSet, top: int) -> list[dict[str, Any]]:
    """The best classes of an image, best first; of equal scores the class given first."""
    order = np.argsort(-scores, kind="stable")[:top].tolist()
    return [{"class": labels.classes[place], "score": float(scores[place])} for place in order]
