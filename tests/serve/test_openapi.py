"""The OpenAPI document is valid, has every route, and accepts what the clients send."""

import asyncio

import jsonschema
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from seekjax.serve.app import routes_of
from seekjax.serve.openapi import document
from tests.serve.running import client_of, make_api

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
BODIES = {
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": SCHEMA,
        "stop": None,
    },
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "tools": [{"type": "function", "name": "f"}],
        "text": {"format": {"type": "text"}},
    },
    "/v1/messages": {
        "model": "tiny",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "thinking": {"type": "enabled", "budget_tokens": 5},
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    },
    "/v1/messages/count_tokens": {"model": "tiny", "messages": [{"role": "user", "content": "a"}]},
    "/v1/completions": {"prompt": [[1, 2], [3]], "structured_outputs": {"regex": "a"}},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [1]},
}


def schema_of(path):
    return document()["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def validator(schema):
    """A validator of a schema within the document."""
    root = Resource.from_contents(document(), default_specification=DRAFT202012)
    return jsonschema.Draft202012Validator(
        {"$ref": "doc:" + schema} if isinstance(schema, str) else _absolute(schema),
        registry=Registry().with_resource("doc:", root),
    )


def _absolute(value):
    """A schema with its references into the document."""
    if isinstance(value, dict):
        return {
            name: f"doc:{part}" if name == "$ref" else _absolute(part)
            for name, part in value.items()
        }
    return [_absolute(part) for part in value] if isinstance(value, list) else value


def test_it_is_served():
    async def get():
        async with client_of(make_api()) as client:
            return (await client.get("/openapi.json")).json()

    assert asyncio.run(get()) == document()


def test_it_has_every_route():
    routes = routes_of(make_api())
    served = {(route.path.replace(":path", ""), min(route.methods - {"HEAD"})) for route in routes}
    written = {
        (path, method.upper())
        for path, methods in document()["paths"].items()
        for method in methods
    }
    assert {route for route in served if not route[0].startswith("/page") and route[0] != "/"} == (
        written
    )


@pytest.mark.parametrize("path", BODIES)
def test_it_accepts_what_clients_send(path):
    schema = schema_of(path)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert not list(validator(schema).iter_errors(BODIES[path]))


@pytest.mark.parametrize(
    ("path", "change", "place"),
    [
        ("/v1/chat/completions", {"n": 9}, ["n"]),
        ("/v1/chat/completions", {"messages": []}, ["messages"]),
        ("/v1/chat/completions", {"messages": [{}]}, ["messages", 0]),
        ("/v1/messages", {"max_tokens": None}, ["max_tokens"]),
        ("/v1/responses", {"reasoning": {"effort": "vast"}}, ["reasoning", "effort"]),
        ("/v1/completions", {"structured_outputs": {"regex": 3}}, ["structured_outputs", "regex"]),
    ],
)
def test_it_refuses_what_the_server_refuses(path, change, place):
    errors = list(validator(schema_of(path)).iter_errors(BODIES[path] | change))
    assert [list(error.absolute_path) for error in errors] == [place]


@pytest.mark.parametrize("path", BODIES)
def test_answers_are_as_documented(path):
    async def post():
        async with client_of(make_api()) as client:
            return await client.post(path, json=BODIES[path])

    response = asyncio.run(post())
    assert response.status_code == 200, response.text
    content = document()["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]
    assert not list(validator(content["schema"]).iter_errors(response.json()))
