"""The messages of a chat request, checked, as the template takes them."""

from collections.abc import Sequence
from typing import Any

from seekjax.data.chat import Message
from seekjax.serve.errors import RequestError, need_field
from seekjax.serve.fields import Field, check, read_fields
from seekjax.serve.tool_fields import function_call

ROLES = ("system", "developer", "user", "assistant", "tool")
TEXT_PARTS = ("text", "input_text", "output_text")
CALL_FIELDS = {
    "name": Field("string", 1, required=True),
    "arguments": Field("string|object", required=True),
}


def read_messages(messages: Sequence[Any], param: str = "messages") -> list[Message]:
    """Return messages of OpenAI's chat API in the form that ChatTemplate renders.

    Raises RequestError for an unknown role or a content that is not text.
    """
    read = []
    for index, message in enumerate(messages):
        path = f"{param}[{index}]"
        need_field(isinstance(message, dict), path, "must be an object.")
        check(message.get("role"), Field("string", choices=ROLES), f"{path}.role")
        read.append(_read_message(message, path))
    return read


def _read_message(message: dict[str, Any], path: str) -> Message:
    """Return one message, whose role is right."""
    role = "system" if message["role"] == "developer" else message["role"]
    content = read_text(message.get("content"), f"{path}.content")
    need_field(
        content is not None or role == "assistant",
        f"{path}.content",
        "is missing: it is the text.",
    )
    read: Message = {"role": role, "content": content or ""}

    if role == "assistant":
        for name in ("reasoning_content", "reasoning"):
            if message.get(name) is not None:
                check(message[name], Field("string"), f"{path}.{name}")
                read["reasoning_content"] = message[name]
        calls = message.get("tool_calls")
        if calls:
            check(calls, Field("array", items=Field("object")), f"{path}.tool_calls")
            read["tool_calls"] = _read_calls(calls, f"{path}.tool_calls")
    if role == "tool":
        for name in ("tool_call_id", "name"):
            if message.get(name) is not None:
                check(message[name], Field("string"), f"{path}.{name}")
                read[name] = message[name]
    return read


def read_text(content: Any, path: str) -> str | None:
    """Return a content that is a text, or a list of parts that are texts, joined."""
    if content is None or isinstance(content, str):
        return content
    check(content, Field("string|array"), path)
    texts = []
    for index, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(part, dict) and part.get("type", "text") not in TEXT_PARTS:
            raise RequestError(
                f"{path}[{index}].type is {part['type']!r}: this model reads text alone.",
                param=f"{path}[{index}].type",
            )
        need_field(isinstance(text, str), f"{path}[{index}].text", "must be a string.")
        texts.append(text)
    return "".join(texts)


def _read_calls(calls: Sequence[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    """Return the calls of an earlier answer in OpenAI's form."""
    read = []
    for index, call in enumerate(calls):
        inside = f"{path}[{index}].function"
        check(call.get("function"), Field("object"), inside)
        function = read_fields(call["function"], CALL_FIELDS, inside)
        read.append(function_call(str(call.get("id", "")), **function))
    return read
