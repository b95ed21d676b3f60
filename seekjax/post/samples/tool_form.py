"""What a chat template writes of tools, found by rendering a conversation that has them."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from seekjax.data import DataError
from seekjax.data.chat import ChatTemplate, Message
from seekjax.data.tokenizer import THINK, THINK_END
from seekjax.errors import need
from seekjax.post.samples.tools import Tool

# The texts of the conversation: each is found again in what a template writes of it.
OFFERED, CALLED, OUTPUT = "offered_function", "called_function", "an output"
ARGUMENTS = {"first_argument": "a value"}
QUESTION: Message = {"role": "user", "content": "1+1"}

ADVICE = "set another template, as v3, or"


class ToolForm(NamedTuple):
    """What a template writes, and what it leaves out."""

    offers: bool  # the tools that a conversation offers
    texts: bool  # calls whose arguments are JSON texts, as OpenAI has them
    objects: bool  # calls whose arguments are JSON objects, as transformers has them
    outputs: bool  # messages of the role tool, otherwise than those of the assistant
    drops: bool  # it leaves out the thinking of past answers

    def fit(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        """Return a conversation that ends with an answer, in a form that the template writes.

        That is the form of the arguments of calls. And if past answers lose their thinking, so do
        those that call tools: the templates of V3 and V3.1 keep it by mistake, R1-0528's does not.

        Raises DataError for what it does not write.
        """
        need(
            self.offers or not tools,
            "the chat template does not write the tools that are offered: "
            f"{ADVICE} describe them in a system message and leave out tools.",
            DataError,
        )
        need(
            self.outputs or all(message["role"] != "tool" for message in messages),
            "the chat template does not write the outputs of tools: "
            f"{ADVICE} write them into messages of the user.",
            DataError,
        )
        fitted = [self._fit_calls(message) for message in messages]
        for message in fitted[:-1]:
            if self.drops and message.get("tool_calls"):
                message["content"] = message["content"].rpartition(THINK_END)[2]
        return fitted

    def _fit_calls(self, message: Message) -> Message:
        if not message.get("tool_calls"):
            return message
        need(
            self.texts or self.objects,
            "the chat template does not write the calls of tools: "
            f"{ADVICE} write the calls into the content and leave out tool_calls.",
            DataError,
        )

        calls = []
        for call in message["tool_calls"]:
            arguments = call["function"]["arguments"]
            if isinstance(arguments, str) and not self.texts:
                arguments = json.loads(arguments)
            elif not isinstance(arguments, str) and not self.objects:
                arguments = json.dumps(arguments, ensure_ascii=False)
            calls.append({**call, "function": {**call["function"], "arguments": arguments}})
        return {**message, "tool_calls": calls}


def has_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> bool:
    """Return whether a conversation offers tools, calls one, or has the output of one."""
    with_tools = [message["role"] == "tool" or "tool_calls" in message for message in messages]
    return bool(tools) or any(with_tools)


def find_tool_form(chat: ChatTemplate) -> ToolForm:
    """Return what a template writes of tools."""
    arguments = json.dumps(ARGUMENTS)
    text = render_call(chat)
    texts = CALLED in text and arguments in text
    text = _render(chat, [QUESTION, _call(ARGUMENTS)])
    objects = CALLED in text and "first_argument" in text and repr(ARGUMENTS) not in text

    # A template without tools writes their outputs as answers of the assistant.
    called = _call(arguments if texts else ARGUMENTS) if texts or objects else QUESTION
    output: Message = {"role": "tool", "tool_call_id": "call00001", "content": OUTPUT}
    text = _render(chat, [QUESTION, called, output])
    answer: Message = {"role": "assistant", "content": OUTPUT}
    outputs = OUTPUT in text and text != _render(chat, [QUESTION, called, answer])

    parameters = {"type": "object", "properties": {}}
    function = {"name": OFFERED, "description": "A function.", "parameters": parameters}
    offered = _render(chat, [QUESTION], [{"type": "function", "function": function}])

    thinking: Message = {"role": "assistant", "content": f"{THINK}{OUTPUT}{THINK_END}2"}
    drops = OUTPUT not in _render(chat, [QUESTION, thinking, QUESTION])
    return ToolForm(OFFERED in offered, texts, objects, outputs, drops)


def render_call(chat: ChatTemplate) -> str:
    """Return what a template writes of a conversation whose answer calls CALLED."""
    return _render(chat, [QUESTION, _call(json.dumps(ARGUMENTS))])


def _call(arguments: str | dict[str, str]) -> Message:
    """Return a message with one call."""
    function = {"name": CALLED, "arguments": arguments}
    call = {"id": "call00001", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _render(chat: ChatTemplate, messages: list[Message], tools: Sequence[Tool] = ()) -> str:
    """Return what the template writes, "" if it fails."""
    try:
        return chat.render(messages, generation_prompt=False, tools=tools)
    except DataError:
        return ""
