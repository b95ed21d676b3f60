"""The input of /v1/responses: items of several kinds, as the messages of a conversation."""

from typing import Any

from seekjax.data.chat import Message
from seekjax.serve.chat_messages import read_text
from seekjax.serve.errors import RequestError, need_field
from seekjax.serve.fields import Field, check, read_fields
from seekjax.serve.tool_fields import function_call

ROLES = ("system", "developer", "user", "assistant")
KINDS = ("message", "reasoning", "function_call", "function_call_output")
CALL_FIELDS = {
    "call_id": Field("string", 1, required=True),
    "name": Field("string", 1, required=True),
    "arguments": Field("string", required=True),
}
OUTPUT_FIELDS = {
    "call_id": Field("string", 1, required=True),
    "output": Field("string|array", required=True),
}


def read_input(value: Any, instructions: str | None = None) -> list[Message]:
    """Return the messages of an input, a text or a list of items, behind the instructions.

    What an assistant thought, said and called in one turn becomes one message. Raises RequestError
    for an item of another kind, and for the output of a call that is not there.
    """
    messages: list[Message] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    if isinstance(value, str):
        return [*messages, {"role": "user", "content": value}]

    calls: set[str] = set()
    for index, item in enumerate(value):
        path = f"input[{index}]"
        need_field(isinstance(item, dict), path, "must be an object.")
        kind = item.get("type", "message")
        check(kind, Field("string", choices=KINDS), f"{path}.type")
        if kind == "message":
            _add_message(messages, item, path)
        elif kind == "reasoning":
            _turn(messages)["reasoning_content"] = _read_reasoning(item, path)
        elif kind == "function_call":
            calls.add(_add_call(messages, item, path))
        else:
            messages.append(_read_output(item, calls, path))
    return messages


def _add_message(
    messages: list[Message],
    item: dict[str, Any],
    path: str,
) -> None:
    """Append a message; that of an assistant goes on with its turn."""
    check(item.get("role"), Field("string", choices=ROLES), f"{path}.role")
    content = read_text(item.get("content"), f"{path}.content")
    need_field(content is not None, f"{path}.content", "is missing: it is the text.")

    if item["role"] == "assistant":
        turn = _turn(messages)
        turn["content"] += content
    else:
        role = "user" if item["role"] == "user" else "system"
        messages.append({"role": role, "content": content})


def _add_call(
    messages: list[Message],
    item: dict[str, Any],
    path: str,
) -> str:
    """Add a call to the assistant's turn; return its id."""
    call = read_fields(item, CALL_FIELDS, path)
    calls = _turn(messages).setdefault("tool_calls", [])
    calls.append(function_call(call["call_id"], call["name"], call["arguments"]))
    return call["call_id"]


def _turn(messages: list[Message]) -> Message:
    """Return the last message, if it is the assistant's, or a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _read_reasoning(item: dict[str, Any], path: str) -> str:
    """Return the text of a reasoning item; its summary where it has no content."""
    for name in ("content", "summary"):
        parts = item.get(name)
        if parts:
            texts = []
            check(parts, Field("array", items=Field("object")), f"{path}.{name}")
            for part in parts:
                need_field(
                    isinstance(part.get("text"), str),
                    f"{path}.{name}",
                    "must hold parts of text.",
                )
                texts.append(part["text"])
            return "".join(texts)
    return ""


def _read_output(
    item: dict[str, Any],
    calls: set[str],
    path: str,
) -> Message:
    """Return the message of a tool."""
    output = read_fields(item, OUTPUT_FIELDS, path)
    if output["call_id"] not in calls:
        raise RequestError(
            f"{path}.call_id is {output['call_id'][:40]!r}, and no function_call before it has "
            "this call_id.",
            param=f"{path}.call_id",
        )
    text = read_text(output["output"], f"{path}.output")
    return {
        "role": "tool",
        "tool_call_id": output["call_id"],
        "content": text or "",
    }
