"""Anthropic's /v1/messages and /v1/messages/count_tokens: requests as conversations."""

from typing import Any

from seekjax.serve.chat import read_template_settings
from seekjax.serve.conversation import Conversation
from seekjax.serve.errors import need_field
from seekjax.serve.fields import Field, read_fields
from seekjax.serve.grammar import of_schema
from seekjax.serve.message_blocks import read_blocks, read_system
from seekjax.serve.message_writer import MessageWriter
from seekjax.serve.sampling import SAMPLING_FIELDS, read_sampling, read_stop
from seekjax.serve.served import ServedModel
from seekjax.serve.tool_fields import check_tools, read_tool_choice

# The settings of sampling that Anthropic's API has, and others that this server has.
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "cache_salt")
SAMPLING += ("frequency_penalty", "presence_penalty", "structured_outputs")
CONVERSATION_FIELDS = {
    "model": Field("string", 1, required=True),
    "messages": Field(
        "array",
        1,
        4096,
        required=True,
    ),
    "system": Field("string|array"),
    "tools": Field("array", 0, 128),
    "tool_choice": Field("object"),
    "thinking": Field("object"),
    "output_config": Field("object"),
    "chat_template_kwargs": Field("object"),
}
FIELDS = (
    CONVERSATION_FIELDS
    | {name: SAMPLING_FIELDS[name] for name in SAMPLING}
    | {
        "max_tokens": Field("integer", 1, required=True),
        "stop_sequences": Field("array", items=Field("string")),
        "stream": Field("boolean"),
    }
)
THINKING_FIELDS = {
    "type": Field(
        "string", choices=("enabled", "disabled", "adaptive", "between_tools"), required=True
    ),
    "budget_tokens": Field("integer", 1),
}
TOOL_FIELDS = {
    "name": Field("string", 1, required=True),
    "description": Field("string"),
    "input_schema": Field("object", required=True),
    "strict": Field("boolean"),
}
CHOICE_FIELDS = {
    "type": Field("string", choices=("auto", "any", "tool", "none"), required=True),
    "name": Field("string"),
    "disable_parallel_tool_use": Field("boolean"),
}
OUTPUT_FIELDS = {"format": Field("object")}
FORMAT_FIELDS = {
    "type": Field("string", choices=("json_schema",), required=True),
    "schema": Field("object", required=True),
}


def read(body: dict[str, Any], served: ServedModel) -> tuple[Conversation, MessageWriter]:
    """Return the conversation of a request, and the writer of its answer.

    Raises RequestError for a field that is wrong, and for an unknown model.
    """
    values = read_fields(body, FIELDS)
    conversation = _read_conversation(values, served)
    conversation.max_tokens = values["max_tokens"]
    conversation.stop = read_stop(values.get("stop_sequences"), "stop_sequences")

    budget = conversation.thinking_budget
    need_field(
        budget is None or budget < values["max_tokens"],
        "thinking.budget_tokens",
        f"is {budget}, and max_tokens is {values['max_tokens']}: it must be less.",
    )
    return conversation, MessageWriter(served, values.get("stream", False))


def count_tokens(body: dict[str, Any], served: ServedModel) -> dict[str, Any]:
    """Return how many tokens the prompt of a request has. Raises RequestError as `read`."""
    values = read_fields(body, CONVERSATION_FIELDS)
    conversation = _read_conversation(values, served)
    return {"input_tokens": len(served.encode(conversation).ids)}


def _read_conversation(values: dict[str, Any], served: ServedModel) -> Conversation:
    """Return the conversation of the fields that both requests have."""
    served.check_name(values["model"])
    messages = read_system(values.get("system")) + read_blocks(values["messages"])
    conversation = Conversation(messages)
    read_sampling(values, conversation, served.tokenizer.stops)
    conversation.continue_final = messages[-1]["role"] == "assistant"

    thinking = values.get("thinking")
    if thinking is not None:
        given = read_fields(thinking, THINKING_FIELDS, "thinking")
        conversation.thinking = {"enabled": True, "disabled": False}.get(given["type"])
        conversation.thinking_budget = given.get("budget_tokens")
    conversation.template_settings = read_template_settings(values)

    _read_tools(values, conversation)
    output = read_fields(values.get("output_config", {}), OUTPUT_FIELDS, "output_config")
    if "format" in output:
        inside = "output_config.format"
        schema = read_fields(output["format"], FORMAT_FIELDS, inside)["schema"]
        conversation.grammar = of_schema(schema, f"{inside}.schema")
    return conversation


def _read_tools(values: dict[str, Any], conversation: Conversation) -> None:
    """Put the tools of a request, in the form of chat, and its choice into the conversation."""
    tools = []
    for index, tool in enumerate(values.get("tools", [])):
        path = f"tools[{index}]"
        need_field(isinstance(tool, dict), path, "must be an object.")
        need_field(
            tool.get("type") in (None, "custom"),
            f"{path}.type",
            "must be custom: this server runs no tools itself.",
        )
        function = read_fields(tool, TOOL_FIELDS, path)
        function["parameters"] = function.pop("input_schema")
        tools.append({"type": "function", "function": function})
    check_tools(tools)
    conversation.tools = tools

    choice = read_fields(values.get("tool_choice", {"type": "auto"}), CHOICE_FIELDS, "tool_choice")
    kind = choice["type"]
    wanted: Any = {"any": "required", "tool": {"name": choice.get("name")}}.get(kind, kind)
    conversation.tool_choice = read_tool_choice(wanted, tools)
    conversation.parallel_tool_calls = not choice.get("disable_parallel_tool_use", False)
