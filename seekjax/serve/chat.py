"""OpenAI's /v1/chat/completions, with the fields that DeepSeek, vLLM and SGLang add to it."""

from collections.abc import Iterable, Sequence
from typing import Any

from seekjax.generate.engine.request import Token
from seekjax.serve.chat_messages import read_messages
from seekjax.serve.conversation import Conversation, Returned
from seekjax.serve.errors import need_field
from seekjax.serve.events import (
    Content,
    Event,
    Finish,
    Reasoning,
    Start,
    ToolArguments,
    ToolCall,
    Usage,
)
from seekjax.serve.fields import Field, read_fields
from seekjax.serve.logprobs import chat_log_probs, token_extras
from seekjax.serve.openai_writer import OpenAIWriter
from seekjax.serve.sampling import SAMPLING_FIELDS, read_sampling
from seekjax.serve.served import ServedModel
from seekjax.serve.tool_fields import check_tools, function_call, read_tool_choice

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
FIELDS = SAMPLING_FIELDS | {
    "messages": Field("array", 1, 4096, required=True),
    "model": Field("string"),
    "max_tokens": Field("integer", 1),
    "max_completion_tokens": Field("integer", 1),
    "stream": Field("boolean"),
    "stream_options": Field("object"),
    "logprobs": Field("boolean"),
    "top_logprobs": Field("integer", 0, 20),
    "tools": Field("array", 0, 128),
    "tool_choice": Field("string|object"),
    "parallel_tool_calls": Field("boolean"),
    "reasoning_effort": Field("string", choices=EFFORTS),
    "thinking": Field("object|boolean"),
    "chat_template_kwargs": Field("object"),
    "continue_final_message": Field("boolean"),
}
STREAM_FIELDS = {"include_usage": Field("boolean")}
THINKING_FIELDS = {
    "type": Field("string", choices=("enabled", "disabled", "adaptive", "auto"), required=True),
    "budget_tokens": Field("integer", 1),
}


def read(body: dict[str, Any], served: ServedModel) -> tuple[Conversation, "ChatWriter"]:
    """Return the conversation of a request, and the writer of its answer.

    Raises RequestError for a field that is wrong, and for an unknown model.
    """
    values = read_fields(body, FIELDS)
    served.check_name(values.get("model"))
    options = read_fields(values.get("stream_options", {}), STREAM_FIELDS, "stream_options")

    conversation = Conversation(read_messages(values["messages"]))
    read_sampling(values, conversation, served.tokenizer.stops)
    conversation.max_tokens = values.get("max_completion_tokens", values.get("max_tokens"))
    conversation.thinking = read_thinking(values)
    if isinstance(values.get("thinking"), dict):
        conversation.thinking_budget = values["thinking"].get("budget_tokens")
    conversation.template_settings = read_template_settings(values)
    conversation.continue_final = values.get("continue_final_message", False)
    need_field(
        not conversation.continue_final or conversation.messages[-1]["role"] == "assistant",
        "continue_final_message",
        "is true, but the last message is not the assistant's.",
    )

    conversation.tools = values.get("tools", [])
    check_tools(conversation.tools)
    conversation.tool_choice = read_tool_choice(values.get("tool_choice"), conversation.tools)
    conversation.parallel_tool_calls = values.get("parallel_tool_calls", True)

    top = values.get("top_logprobs", 0)
    log_probs = values.get("logprobs", False)
    need_field(log_probs or not top, "top_logprobs", "needs logprobs true.")
    conversation.want_log_probs(log_probs, top)
    writer = ChatWriter(
        served,
        conversation,
        stream=values.get("stream", False),
        include_usage=options.get("include_usage", False),
    )
    return conversation, writer


def read_thinking(values: dict[str, Any]) -> bool | None:
    """Return whether a request turns thinking on or off; None if it says neither.

    `thinking` is DeepSeek's and Anthropic's field, `reasoning_effort` OpenAI's, and the settings of
    the template are vLLM's way; the first one that is given counts.
    """
    thinking = values.get("thinking")
    if isinstance(thinking, bool):
        return thinking
    if thinking is not None:
        kind = read_fields(thinking, THINKING_FIELDS, "thinking")["type"]
        return {"enabled": True, "disabled": False}.get(kind)
    if "reasoning_effort" in values:
        return values["reasoning_effort"] != "none"

    settings = values.get("chat_template_kwargs", {})
    for name in ("thinking", "enable_thinking"):
        if isinstance(settings.get(name), bool):
            return settings[name]
    return None


def read_template_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings for the chat template; the names that it gets anyway are refused."""
    settings = values.get("chat_template_kwargs", {})
    for name in settings:
        own = ("messages", "tools", "bos_token", "eos_token", "add_generation_prompt")
        need_field(
            name.isidentifier() and name not in own,
            "chat_template_kwargs",
            f"has {name[:40]!r}, which is not a setting of a chat template.",
        )
    return settings


class ChatWriter(OpenAIWriter):
    """Writes chat.completion, or a stream of chat.completion.chunk that ends with [DONE]."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(
        self,
        served: ServedModel,
        conversation: Conversation,
        stream: bool = False,
        include_usage: bool = False,
    ):
        self._returned = conversation.returned
        self._answers = [Choice(served, self._returned) for _ in range(conversation.n)]
        super().__init__(served, self._answers, conversation.n, stream, include_usage)

    def add(self, choice: int, event: Event) -> Iterable[str]:
        """Return the chunk of an event."""
        if not self.stream:
            self._answers[choice].add(event)
            return ()

        fields: dict[str, Any] = {"delta": _delta(event), "logprobs": None, "finish_reason": None}
        if isinstance(event, Finish):
            self._answers[choice].usage = event.usage
            fields["finish_reason"] = event.reason
        if isinstance(event, Reasoning | Content):
            if self._returned.log_probs:
                fields["logprobs"] = chat_log_probs(event.tokens, self._served.texts)
            extras = token_extras(event.tokens, self._returned)
            if not (event.text or self._returned.log_probs or extras):
                return ()
            fields |= extras
        elif isinstance(event, Start) and self._returned.token_ids:
            fields["prompt_token_ids"] = list(event.prompt)
        return (self.chunk(choice, fields),)


class Choice:
    """One choice of an answer, as its events come; of a stream its usage alone."""

    def __init__(self, served: ServedModel, returned: Returned):
        self.usage = Usage(0, 0)
        self._texts = served.texts
        self._returned = returned
        self._content = ""
        self._reasoning = ""
        self._calls: list[dict[str, Any]] = []
        self._reason = "stop"
        self._log_probs: dict[str, Any] | None = None
        self._extras: dict[str, Any] = {}

    def add(self, event: Event) -> None:
        """Take an event in."""
        if isinstance(event, Start) and self._returned.token_ids:
            self._extras["prompt_token_ids"] = list(event.prompt)
        elif isinstance(event, Reasoning):
            self._reasoning += event.text
            self._add_tokens(event.tokens)
        elif isinstance(event, Content):
            self._content += event.text
            self._add_tokens(event.tokens)
        elif isinstance(event, ToolCall):
            self._calls.append(function_call(event.id, event.name, ""))
        elif isinstance(event, ToolArguments):
            self._calls[event.index]["function"]["arguments"] += event.text
        elif isinstance(event, Finish):
            self._reason = event.reason
            self.usage = event.usage

    def _add_tokens(self, tokens: Sequence[Token]) -> None:
        """Take in what the request asks for with its tokens."""
        if self._returned.log_probs:
            shown = chat_log_probs(tokens, self._texts)
            if self._log_probs is None:
                self._log_probs = shown
            else:
                self._log_probs["content"] += shown["content"]
        for name, values in token_extras(tokens, self._returned).items():
            self._extras.setdefault(name, []).extend(values)

    def fields(self) -> dict[str, Any]:
        """Return the choice as JSON, without its index."""
        empty = bool(self._calls) and not self._content
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if empty else self._content,
            "refusal": None,
        }
        if self._reasoning:
            message |= {"reasoning_content": self._reasoning, "reasoning": self._reasoning}
        if self._calls:
            message["tool_calls"] = self._calls
        return {
            "message": message,
            "logprobs": self._log_probs,
            "finish_reason": self._reason,
            **self._extras,
        }


def _delta(event: Event) -> dict[str, Any]:
    """Return what an event adds to the message."""
    if isinstance(event, Start):
        return {"role": "assistant", "content": ""}
    if isinstance(event, Reasoning):
        return {"reasoning_content": event.text, "reasoning": event.text}
    if isinstance(event, Content):
        return {"content": event.text}
    if isinstance(event, ToolCall):
        call = function_call(event.id, event.name, "")
        return {"tool_calls": [{"index": event.index, **call}]}
    if isinstance(event, ToolArguments):
        return {"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}
    return {}
