"""OpenAI's /v1/responses: a request as a conversation.

Responses are not stored, so a request has the whole conversation in `input`.
"""

from typing import Any

from seekjax.serve.chat import EFFORTS, read_template_settings, read_thinking
from seekjax.serve.conversation import Conversation
from seekjax.serve.errors import need_field
from seekjax.serve.fields import Field, read_fields
from seekjax.serve.grammar import read_format
from seekjax.serve.response_items import read_input
from seekjax.serve.response_writer import ResponsesWriter
from seekjax.serve.sampling import SAMPLING_FIELDS, read_sampling
from seekjax.serve.served import ServedModel
from seekjax.serve.tool_fields import FUNCTION_FIELDS, check_tools, read_tool_choice

CHAT_ONLY = ("n", "response_format", "return_token_ids", "return_routed_experts")
CHAT_ONLY += ("return_sampling_mask", "return_drafted")
LOG_PROBS = "message.output_text.logprobs"  # in `include`
FIELDS = {name: field for name, field in SAMPLING_FIELDS.items() if name not in CHAT_ONLY} | {
    "input": Field("string|array", 1, required=True),
    "model": Field("string"),
    "instructions": Field("string"),
    "max_output_tokens": Field("integer", 1),
    "stream": Field("boolean"),
    "text": Field("object"),
    "tools": Field("array", 0, 128),
    "tool_choice": Field("string|object"),
    "parallel_tool_calls": Field("boolean"),
    "reasoning": Field("object"),
    "include": Field("array", items=Field("string")),
    "top_logprobs": Field("integer", 0, 20),
    "metadata": Field("object"),
    "user": Field("string"),
    "chat_template_kwargs": Field("object"),
}
REASONING_FIELDS = {
    "effort": Field("string", choices=EFFORTS),
}
# fields that would need a store of responses, and what to do without one
STORED = {
    "previous_response_id": "send the whole conversation as input",
    "conversation": "send the whole conversation as input",
    "prompt": "send its text as input",
    "background": "wait for the answer, or read it as a stream",
}
IGNORED_TOOLS = ("web_search", "web_search_preview")  # which clients offer to any server


def read(body: dict[str, Any], served: ServedModel) -> tuple[Conversation, ResponsesWriter]:
    """Return the conversation of a request, and the writer of its answer.

    Raises RequestError for a field that is wrong, and for an unknown model.
    """
    values = read_fields(body, FIELDS)
    served.check_name(values.get("model"))
    for name, instead in STORED.items():
        sentence = f"is set, and this server stores no responses: {instead}."
        need_field(not body.get(name), name, sentence)

    conversation = Conversation(read_input(values["input"], values.get("instructions")))
    read_sampling(values, conversation, served.tokenizer.stops)
    conversation.max_tokens = values.get("max_output_tokens")
    text_format = values.get("text", {}).get("format")
    if text_format is not None:
        grammar = read_format(text_format, "text.format")
        need_field(
            grammar is None or conversation.grammar is None,
            "structured_outputs",
            "and text.format both say what the answer must match: send one of them.",
        )
        conversation.grammar = grammar or conversation.grammar

    reasoning = read_fields(values.get("reasoning", {}), REASONING_FIELDS, "reasoning")
    if "effort" in reasoning:
        values["reasoning_effort"] = reasoning["effort"]
    conversation.thinking = read_thinking(values)
    conversation.template_settings = read_template_settings(values)

    conversation.tools = read_tools(values.get("tools", []))
    conversation.tool_choice = read_tool_choice(values.get("tool_choice"), conversation.tools)
    conversation.parallel_tool_calls = values.get("parallel_tool_calls", True)
    conversation.want_log_probs(
        LOG_PROBS in values.get("include", []),
        values.get("top_logprobs", 0),
    )
    return conversation, ResponsesWriter(served, conversation, values)


def read_tools(tools: list[Any]) -> list[dict[str, Any]]:
    """Return the tools of a request in chat's form. Raises RequestError as `check_tools`."""
    read = []
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        need_field(isinstance(tool, dict), path, "must be an object.")
        if tool.get("type") in IGNORED_TOOLS:
            continue
        need_field(
            tool.get("type") == "function",
            f"{path}.type",
            "must be function: this server runs no tools itself.",
        )
        read.append({"type": "function", "function": read_fields(tool, FUNCTION_FIELDS, path)})
    check_tools(read)
    return read
