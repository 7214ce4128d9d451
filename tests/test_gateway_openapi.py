"""The OpenAPI document: valid, and of the routes that there are. tests/web_gateway.py holds all answers to it."""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from starlette.routing import Route

from serving.gateway_app import Options, application
from tests import web_api
from vit22b.client import AsyncClient

# OpenAPI 3.1's own schema, of its specification's repository (github.com/OAI/OpenAPI-Specification, Apache-2.0).
SCHEMA = Path(__file__).parent / "openapi" / "schema-3.1.yaml"
ROOT = Path(__file__).parents[1]


def values(node):
    yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from values(child)


def test_the_document_is_valid():
    schema = yaml.safe_load(SCHEMA.read_text())
    jsonschema.Draft202012Validator(schema).validate(web_api.document())


def test_a_document_with_a_mistake_is_not_valid():
    schema = yaml.safe_load(SCHEMA.read_text())
    for mistake in ({"openapi": "3.0.0"}, {"paths": {"v1": {}}}, {"info": {"title": "no version"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema).validate(web_api.document() | mistake)


def test_every_schema_in_it_is_one():
    for schema in web_api.document()["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere_and_every_part_is_used():
    found = {node["$ref"] for node in values(web_api.document()) if isinstance(node, dict) and "$ref" in node}
    parts = {
        f"#/components/{kind}/{name}"
        for kind, components in web_api.document()["components"].items()
        if kind != "securitySchemes"
        for name in components
    }
    assert found == parts


def test_it_has_the_routes_that_there_are():
    routes = application(AsyncClient("localhost:1"), Options()).routes
    shown = {
        (route.path, method.lower())
        for route in routes
        if isinstance(route, Route) and route.include_in_schema
        for method in route.methods - {"HEAD"}
    }
    methods = {"get", "put", "post", "delete"}
    assert shown == {
        (path, method) for path, item in web_api.document()["paths"].items() for method in methods & item.keys()
    }


def test_its_operations_have_ids_of_their_own():
    ids = [
        node["operationId"] for node in values(web_api.document()) if isinstance(node, dict) and "operationId" in node
    ]
    assert len(ids) == len(set(ids)) == 13


def test_it_has_the_projects_version():
    (version,) = re.findall('^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.M)
    assert web_api.document()["info"]["version"] == version
