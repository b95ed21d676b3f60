"""The grammar of an answer that may, or must, call tools."""

import json
import re
from collections.abc import Sequence
from typing import Any

from seekjax.data.tokenizer import Tokenizer
from seekjax.serve.conversation import Conversation
from seekjax.serve.errors import need_field
from seekjax.serve.grammar import JSON_OPTIONS, Grammar, check_at_once, nested, quoted
from seekjax.serve.tool_fields import CHOICES
from seekjax.serve.tools import CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, MARKS, CallForm

Tool = dict[str, Any]  # in OpenAI's form
ANY = r"/(.|\n)*/"  # text


def answer_grammar(
    conversation: Conversation,
    form: CallForm | None,
    tokenizer: Tokenizer,
) -> Grammar | None:
    """Return the grammar of a whole answer, calls included; None if it is free.

    `form` is that of calls, None if the template has neither. With tools to choose from an answer
    is free, unless one of them is `strict`: then the arguments of calls match their schemas.

    Raises RequestError if a tool must be called and there is no form for it.
    """
    answer, tools, choice = conversation.grammar, conversation.tools, conversation.tool_choice
    forced = choice not in ("none", "auto")
    strict = [tool for tool in tools if tool["function"].get("strict")]
    if choice == "none" or not tools or not (forced or strict or answer):
        return answer
    if form is None:
        sentence = "needs calls in the form of DeepSeek-V3 or V3.1, and the chat template has none."
        need_field(not forced, "tool_choice", sentence)
        return answer

    parallel = conversation.parallel_tool_calls
    if choice not in CHOICES:
        tools = [tool for tool in tools if tool["function"]["name"] == choice]
        parallel = False
    begin = _mark(CALLS_BEGIN, tokenizer)
    rules = _call_rules(
        form,
        tools,
        parallel,
        tokenizer,
    )
    if forced:
        return Grammar(f"start: {begin} calls\n{rules}", "tools")
    if answer is not None:
        return nested(answer, f"start: @answer | {begin} calls\n{rules}")

    # Any text, and calls behind it; a text with the mark in it is not a text.
    if begin != quoted(CALLS_BEGIN):
        start = f"start: TEXT | TEXT {begin} calls\nTEXT: {ANY}"
    else:
        start = f"start: TEXT | head calls\nhead[lazy]: /(.|\\n)*{CALLS_BEGIN}/\n"
        start += f"TEXT: {ANY} & ~/(.|\\n)*{CALLS_BEGIN}(.|\\n)*/"
    return Grammar(f"{start}\n{rules}", "tools")


def _call_rules(
    form: CallForm,
    tools: Sequence[Tool],
    parallel: bool,
    tokenizer: Tokenizer,
) -> str:
    """Return the rules in Lark's notation for `calls`, one or more and the mark behind them."""
    names = []
    rules = []
    for index, tool in enumerate(tools):
        function = tool["function"]
        schema = {
            "type": "object",
            **(function.get("parameters") or {}),
            "x-guidance": {**JSON_OPTIONS, "lenient": not function.get("strict")},
        }
        check_at_once(schema, f"tools[{index}].function.parameters")

        before = form.before + function["name"] + form.between
        parts = [CALL_BEGIN, before, schema, form.after, CALL_END]
        names.append(f"call_{index}")
        rules.append(f"call_{index}: {_sequence(parts, tokenizer)}")

    more = f" ({_sequence([form.separator], tokenizer)} call)*" if parallel else ""
    calls = f"calls: call{more} {_mark(CALLS_END, tokenizer)}"
    return "\n".join([calls, f"call: {' | '.join(names)}", *rules])


def _sequence(parts: Sequence[str | dict], tokenizer: Tokenizer) -> str:
    """Return texts and schemas one behind the other, in Lark's notation."""
    terms = []
    for part in parts:
        if isinstance(part, dict):
            terms.append(f"%json {json.dumps(part, ensure_ascii=False)}")
            continue
        for text in re.split(f"({'|'.join(MARKS)})", part):
            if text:
                terms.append(_mark(text, tokenizer))
    return " ".join(terms)


def _mark(text: str, tokenizer: Tokenizer) -> str:
    """Return a text in Lark's notation; a mark of calls as its token, if it has one."""
    id = tokenizer.id_of(text) if text in MARKS else None
    return quoted(text) if id is None else f"<[{id}]>"
