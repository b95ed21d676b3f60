"""The tools in a fine-tuning row, in OpenAI's form: which are offered, called, and what they gave.

    {"tools": [{"type": "function", "function": {"name": ..., "parameters": ...}}, ...],
     "messages": [
        {"role": "user", "content": ...},
        {"role": "assistant", "tool_calls": [
            {"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}, ...]},
        {"role": "tool", "tool_call_id": ..., "content": ...},
        ...]}

Arguments are a JSON object, or the text of one.
"""

import json
from collections import Counter
from typing import Any

from seekjax.data import DataError
from seekjax.data.chat import Message
from seekjax.errors import need
from seekjax.post.samples.text import check_text

Tool = dict[str, Any]

FORM_OF_TOOL = '{"type": "function", "function": {"name": ..., "parameters": ...}}'
FORM_OF_CALL = '{"type": "function", "function": {"name": ..., "arguments": ...}}'
CALL_KEYS = {"id", "type", "function"}


def read_tools(value: Any, where: str) -> list[Tool]:
    """Return the tools that a row offers, from a list or the JSON text of one. Raises DataError."""
    if isinstance(value, str):
        value = _read_json(value, f"{where}, tools,")
    if not value:
        return []
    need(isinstance(value, list), f"{where}, tools, is not a list: {FORM_OF_TOOL}.", DataError)

    for number, tool in enumerate(value, 1):
        _read_function(tool, f"{where}, tool {number},", FORM_OF_TOOL)
        _check_texts(tool, f"{where}, tool {number},")
    return value


def read_calls(value: Any, where: str, unread: Counter[str]) -> list[Tool]:
    """Return the calls of a message, and count their keys that are not read. Raises DataError."""
    need(isinstance(value, list), f"{where} tool_calls is not a list: {FORM_OF_CALL}.", DataError)

    calls = []
    for number, call in enumerate(value, 1):
        place = f"{where} call {number},"
        function = _read_function(call, place, FORM_OF_CALL)
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = _read_json(arguments, f"{place} arguments,")
        need(
            isinstance(arguments, dict),
            f"{place} has no arguments: write a JSON object, or the text of one.",
            DataError,
        )
        _check_texts(call, place)

        given = {"name": function["name"], "arguments": function["arguments"]}
        identity = {"id": call["id"]} if call.get("id") is not None else {}
        calls.append({**identity, "type": "function", "function": given})
        unread.update(call.keys() - CALL_KEYS)
    return calls


def check_outputs(messages: list[Message], where: str) -> None:
    """Raise DataError for an output that does not follow the call that it belongs to."""
    calls: list[Tool] | None = None  # of the answer before; None behind any other message
    for number, message in enumerate(messages, 1):
        if message["role"] != "tool":
            calls = message.get("tool_calls", []) if message["role"] == "assistant" else None
            continue

        place = f"{where}, message {number},"
        need(
            calls is not None,
            f"{place} is the output of a tool that was not called: it belongs behind the "
            "assistant's message with tool_calls.",
            DataError,
        )
        ids = [call["id"] for call in calls or () if "id" in call]
        identity = message.get("tool_call_id")
        need(
            identity is None or not ids or identity in ids,
            f"{place} has the tool_call_id {identity!r}, which is not one of the calls before it.",
            DataError,
        )


def _read_function(entry: Any, where: str, form: str) -> dict[str, Any]:
    """Return the function of a tool or call. Raises DataError."""
    function = entry.get("function") if isinstance(entry, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    need(
        isinstance(name, str) and name and entry.get("type", "function") == "function",
        f"{where} is not a function: write {form}.",
        DataError,
    )
    return function or {}


def _read_json(text: str, where: str) -> Any:
    """Return the value of a JSON text. Raises DataError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is a text that is not JSON: repair it.") from error


def _check_texts(value: Any, where: str) -> None:
    """Check every text in a value. Raises DataError."""
    try:
        check_text(json.dumps(value, ensure_ascii=False), where)
    except RecursionError as error:
        raise DataError(f"{where} puts objects into objects without end.") from error
