"""The tools of a request in OpenAI's form, checked before a template gets them."""

import re
from collections.abc import Sequence
from typing import Any

from seekjax.registry import did_you_mean
from seekjax.serve.errors import RequestError, need_field
from seekjax.serve.fields import Field, read_fields

NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
CHOICES = ("none", "auto", "required")
FUNCTION_FIELDS = {
    "name": Field("string", required=True),
    "description": Field("string"),
    "parameters": Field("object"),
    "strict": Field("boolean"),
}


def function_call(
    id: str,
    name: str,
    arguments: Any,
) -> dict[str, Any]:
    """Return a call in OpenAI's form; the arguments are JSON as text, or its value."""
    function = {"name": name, "arguments": arguments}
    return {"id": id, "type": "function", "function": function}


def check_tools(tools: Sequence[Any], param: str = "tools") -> None:
    """Raise RequestError unless each tool is a function with a name of its own."""
    names = set()
    for index, tool in enumerate(tools):
        path = f"{param}[{index}]"
        need_field(isinstance(tool, dict), path, "must be an object.")
        need_field(
            tool.get("type", "function") == "function",
            f"{path}.type",
            "must be function: this server runs no tools itself.",
        )
        need_field(isinstance(tool.get("function"), dict), f"{path}.function", "must be an object.")

        function = read_fields(tool["function"], FUNCTION_FIELDS, f"{path}.function")
        name = function["name"]
        need_field(
            NAME.fullmatch(name),
            f"{path}.function.name",
            f"is {name[:40]!r}: it must be 1 to 128 letters, digits, or any of _ . : -",
        )
        need_field(name not in names, f"{path}.function.name", f"{name!r} is used twice.")
        names.add(name)


def read_tool_choice(
    choice: Any,
    tools: Sequence[Any],
    param: str = "tool_choice",
) -> str:
    """Return none, auto, required, or the name of the tool that must be called.

    Raises RequestError for another word, an unknown name, or a call where there are no tools.
    """
    if choice is None:
        return "auto"
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else choice.get("name")
        names = [tool["function"]["name"] for tool in tools]
        if not isinstance(name, str) or name not in names:
            nearest = did_you_mean(str(name), names)
            raise RequestError(
                f"{param} names {name!r}, which is not one of the tools{nearest}", param=param
            )
        return name

    need_field(choice in CHOICES, param, f"must be one of {', '.join(CHOICES)}, or name a tool.")
    need_field(tools or choice != "required", param, "is required, but there are no tools.")
    return choice
