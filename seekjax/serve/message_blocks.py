"""The messages of Anthropic's API: blocks of text, thinking, calls and results, as in chat."""

import json
from collections.abc import Sequence
from typing import Any

from seekjax.data.chat import Message
from seekjax.serve.errors import RequestError, need_field
from seekjax.serve.fields import Field, check, read_fields
from seekjax.serve.tool_fields import function_call

ROLES = ("user", "assistant", "system")
USE_FIELDS = {
    "id": Field("string", 1, required=True),
    "name": Field("string", 1, required=True),
    "input": Field("object", required=True),
}
RESULT_FIELDS = {"tool_use_id": Field("string", 1, required=True), "content": Field("string|array")}
TEXT_FIELDS = {"text": Field("string", required=True)}
THINKING_FIELDS = {"thinking": Field("string", required=True)}


def read_system(system: Any) -> list[Message]:
    """Return the system message of a request, which may have none."""
    text = "" if system is None else read_texts(system, "system")
    return [{"role": "system", "content": text}] if text else []


def read_blocks(messages: Sequence[Any]) -> list[Message]:
    """Return messages in the form of chat; a result of a tool becomes a message of its own.

    Raises RequestError for an unknown role or block, and for the result of a call that is not
    there.
    """
    read: list[Message] = []
    calls: set[str] = set()
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        need_field(isinstance(message, dict), path, "must be an object.")
        check(message.get("role"), Field("string", choices=ROLES), f"{path}.role")
        content = message.get("content")
        check(content, Field("string|array"), f"{path}.content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content

        if message["role"] == "assistant":
            read.append(_read_answer(blocks, calls, f"{path}.content"))
        elif message["role"] == "user":
            read += _read_question(blocks, calls, f"{path}.content")
        else:
            read.append({"role": "system", "content": read_texts(content, f"{path}.content")})
    return read


def read_texts(content: Any, path: str) -> str:
    """Return a content of text alone, a string or blocks."""
    check(content, Field("string|array"), path)
    if isinstance(content, str):
        return content
    texts = []
    for index, block in enumerate(content):
        kind = _kind(block, ("text",), f"{path}[{index}]")
        texts.append(read_fields(block, TEXT_FIELDS, f"{path}[{index}]")[kind])
    return "\n\n".join(texts)


def _read_answer(
    blocks: Sequence[Any],
    calls: set[str],
    path: str,
) -> Message:
    """Return the assistant's message of these blocks; add the ids of its calls."""
    message: Message = {"role": "assistant", "content": ""}
    for index, block in enumerate(blocks):
        inside = f"{path}[{index}]"
        kind = _kind(block, ("text", "thinking", "redacted_thinking", "tool_use"), inside)
        if kind == "text":
            message["content"] += read_fields(block, TEXT_FIELDS, inside)["text"]
        elif kind == "thinking":
            thinking = read_fields(block, THINKING_FIELDS, inside)["thinking"]
            message["reasoning_content"] = message.get("reasoning_content", "") + thinking
        elif kind == "tool_use":
            use = read_fields(block, USE_FIELDS, inside)
            calls.add(use["id"])
            arguments = json.dumps(use["input"], ensure_ascii=False)
            call = function_call(use["id"], use["name"], arguments)
            message.setdefault("tool_calls", []).append(call)
    return message


def _read_question(
    blocks: Sequence[Any],
    calls: set[str],
    path: str,
) -> list[Message]:
    """Return the messages of tools and of the user in these blocks, in their order."""
    messages: list[Message] = []
    for index, block in enumerate(blocks):
        inside = f"{path}[{index}]"
        kind = _kind(block, ("text", "tool_result"), inside)
        if kind == "tool_result":
            messages.append(_read_result(block, calls, inside))
            continue

        text = read_fields(block, TEXT_FIELDS, inside)["text"]
        if messages and messages[-1]["role"] == "user":
            messages[-1]["content"] += "\n\n" + text
        else:
            messages.append({"role": "user", "content": text})
    return messages


def _read_result(
    block: dict[str, Any],
    calls: set[str],
    path: str,
) -> Message:
    """Return the message of a tool."""
    result = read_fields(block, RESULT_FIELDS, path)
    identity = result["tool_use_id"]
    need_field(
        identity in calls,
        f"{path}.tool_use_id",
        f"is {identity[:40]!r}, and no tool_use before it has this id.",
    )
    text = read_texts(result.get("content", ""), f"{path}.content")
    return {
        "role": "tool",
        "tool_call_id": identity,
        "content": text,
    }


def _kind(
    block: Any,
    kinds: Sequence[str],
    path: str,
) -> str:
    """Return the type of a block. Raises RequestError unless it is one of the kinds."""
    need_field(isinstance(block, dict), path, "must be an object.")
    kind = block.get("type")
    if kind in ("image", "document"):
        raise RequestError(
            f"{path}.type is {kind!r}: this model reads text alone.", param=f"{path}.type"
        )
    check(kind, Field("string", choices=tuple(kinds)), f"{path}.type")
    return kind
