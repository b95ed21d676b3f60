"""The OpenAPI document of the server, at /openapi.json.

The body of each request comes from the table of fields that reads it. openapi.json next to this
file has the rest: what is inside those fields, and the responses.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from seekjax.serve import chat, completions, messages, models, responses
from seekjax.serve.fields import Field
from seekjax.version import __version__

COMPONENTS = Path(__file__).with_suffix(".json")
JSON, EVENTS, TEXT = "application/json", "text/event-stream", "text/plain"


class Operation(NamedTuple):
    """What is documented of one route."""

    path: str
    summary: str
    response: str  # the name of its schema in openapi.json
    fields: Mapping[str, Field] | None = None  # of a POST; None is a GET
    # fields whose items, or whose content, have a schema of this name in openapi.json
    items: Mapping[str, str] = {}
    content: Mapping[str, str] = {}
    kinds: tuple[str, ...] = (JSON,)  # content types of the response
    error: str = "Error"


CHAT_ITEMS = {"messages": "ChatMessage", "tools": "ChatTool"}
CHAT_CONTENT = {"response_format": "ResponseFormat", "structured_outputs": "StructuredOutputs"}
MESSAGE_ITEMS = {"messages": "Message", "tools": "MessageTool"}
MESSAGE_CONTENT = {
    "thinking": "Thinking",
    "tool_choice": "MessageToolChoice",
    "output_config": "OutputConfig",
    "structured_outputs": "StructuredOutputs",
}
OPERATIONS = (
    Operation(
        "/v1/chat/completions",
        "Continue a conversation",
        "ChatCompletion",
        chat.FIELDS,
        items=CHAT_ITEMS,
        content=CHAT_CONTENT,
        kinds=(JSON, EVENTS),
    ),
    Operation(
        "/v1/responses",
        "Continue a conversation, as items",
        "Response",
        responses.FIELDS,
        items={"tools": "ResponseTool"},
        content={
            "input": "ResponseInput",
            "reasoning": "ResponseReasoning",
            "text": "ResponseText",
            "structured_outputs": "StructuredOutputs",
        },
        kinds=(JSON, EVENTS),
    ),
    Operation(
        "/v1/messages",
        "Continue a conversation, as blocks",
        "MessageAnswer",
        messages.FIELDS,
        items=MESSAGE_ITEMS,
        content=MESSAGE_CONTENT,
        kinds=(JSON, EVENTS),
        error="MessageError",
    ),
    Operation(
        "/v1/messages/count_tokens",
        "Count the tokens of a conversation",
        "TokenCount",
        messages.CONVERSATION_FIELDS,
        items=MESSAGE_ITEMS,
        content=MESSAGE_CONTENT,
        error="MessageError",
    ),
    Operation(
        "/v1/completions",
        "Continue texts",
        "Completion",
        completions.FIELDS,
        content=CHAT_CONTENT | {"prompt": "Prompt"},
        kinds=(JSON, EVENTS),
    ),
    Operation("/v1/models", "List the names of the model", "ModelList"),
    Operation("/v1/models/{name}", "Show the model", "Model"),
    Operation(
        "/tokenize",
        "Turn a text or a conversation into tokens",
        "Tokens",
        models.TOKENIZE_FIELDS,
        items=CHAT_ITEMS,
    ),
    Operation("/detokenize", "Turn tokens into a text", "Text", models.DETOKENIZE_FIELDS),
    Operation("/tokenizer_info", "Show the tokenizer", "TokenizerInfo"),
    Operation("/health", "Tell whether requests are accepted", "Health"),
    Operation("/metrics", "Show the state for Prometheus", "Metrics", kinds=(TEXT,)),
    Operation("/openapi.json", "Show this document", "Document"),
)


@cache
def document() -> dict[str, Any]:
    """Return the document."""
    paths = {}
    for operation in OPERATIONS:
        method = "get" if operation.fields is None else "post"
        paths[operation.path] = {method: _operation(operation)}

    return {
        "openapi": "3.1.0",
        "info": {"title": "seekjax", "version": __version__},
        "paths": paths,
        "components": json.loads(COMPONENTS.read_text(encoding="utf-8")),
        "security": [{"bearer": []}, {"key": []}],
    }


def request_schema(
    fields: Mapping[str, Field],
    items: Mapping[str, str],
    content: Mapping[str, str],
) -> dict[str, Any]:
    """Return the JSON schema of a body that is read by a table of fields."""
    properties = {}
    for name, field in fields.items():
        schema = field_schema(field)
        if name in items:
            schema["items"] = _reference(items[name])
        if name in content:
            schema = _reference(content[name])
        properties[name] = schema

    required = [name for name, field in fields.items() if field.required]
    return {"type": "object", "properties": properties, "required": required}


def field_schema(field: Field) -> dict[str, Any]:
    """Return the JSON schema of a field; one that is not required may be null."""
    types = field.type.split("|")
    choices: list[str | None] = list(field.choices)
    if not field.required:
        types.append("null")
        choices.append(None)

    schema: dict[str, Any] = {"type": types}
    if field.choices:
        schema["enum"] = choices
    for type in types:
        least, most = _BOUNDS.get(type, ("", ""))
        if least and field.least is not None:
            schema[least] = field.least
        if most and field.most is not None:
            schema[most] = field.most
    if field.items is not None:
        schema["items"] = field_schema(field.items._replace(required=True))
    return schema


_BOUNDS = {
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum"),
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
}


def _operation(operation: Operation) -> dict[str, Any]:
    """Return one operation of the document."""
    schema = {"schema": _reference(operation.response)}
    answer = {"description": "The answer", "content": dict.fromkeys(operation.kinds, schema)}
    if EVENTS in operation.kinds:
        answer["content"][EVENTS] = {}  # a schema would be of each event, and they differ
    error = {"schema": _reference(operation.error)}
    failure = {"description": "An error", "content": {JSON: error}}

    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {"200": answer, "default": failure},
    }
    if operation.fields is not None:
        body = request_schema(operation.fields, operation.items, operation.content)
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    if "{name}" in operation.path:
        described["parameters"] = [_reference("Name", "parameters")]
    return described


def _reference(name: str, kind: str = "schemas") -> dict[str, Any]:
    return {"$ref": f"#/components/{kind}/{name}"}
