"""What a row of a fine-tuning file may hold: the formats, their keys, and what becomes of each.

A conversation is written in one of these formats, recognised by the first key:

    {"messages": [{"role": "user", "content": ...}, ...]}             DeepSeek's and OpenAI's
    {"conversations": [{"from": "human", "value": ...}, ...]}         ShareGPT
    {"instruction": ..., "input": ..., "output": ...}                 Alpaca

and a pair of answers as {"prompt": ...} or one of the formats above without the answer, with
"chosen" and "rejected". Each format may have a "system" text. In a message of the assistant,
"reasoning_content" is the thinking before the content (DeepSeek's API), and "weight": 0 keeps the
message out of training (OpenAI). tools.py has how a row offers tools, calls them and gives their
outputs. Keys that would change the meaning and cannot be honoured are refused; all others are
counted, for a run to name them.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from seekjax.data import DataError
from seekjax.data.chat import Message
from seekjax.data.tokenizer import THINK, THINK_END
from seekjax.errors import need
from seekjax.post.samples.text import check_text, join_parts
from seekjax.post.samples.tools import Tool, check_outputs, read_calls, read_tools

Record = dict[str, Any]


class Turn(NamedTuple):
    """A message, and whether it is learnt if it is the assistant's."""

    role: str
    content: str
    learnt: bool = True
    further: Message | None = None  # of tools: tool_calls, tool_call_id, name

    def message(self) -> Message:
        """Return the message that a chat template takes."""
        return {"role": self.role, "content": self.content, **(self.further or {})}


class Conversation(NamedTuple):
    """The turns of a row, and the tools that it offers."""

    turns: list[Turn]
    tools: list[Tool]

    def messages(self) -> list[Message]:
        """Return the messages that a chat template takes."""
        return [turn.message() for turn in self.turns]


class Format(NamedTuple):
    """A format of conversations."""

    keys: tuple[str, ...]  # that it reads; a row with the first of them is in this format
    read: Callable[[Record, str, Counter[str]], list[Turn]]


# What other projects call the four roles.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "tool": "tool",
}
MESSAGE_KEYS = {"role", "content", "from", "value", "reasoning_content", "weight"}
OUTPUT_KEYS = ("tool_call_id", "name")
TOOL_KEYS = {"assistant": {"tool_calls"}, "tool": {*OUTPUT_KEYS}}  # by role

# What `seekjax sample` records of each conversation that it writes.
RECORDED_KEYS = {"task", "level", "reward"}

# Keys that change what a row means. Empty ones are ignored.
_FUNCTIONS = 'it is the older form of "tools" and "tool_calls": write those'
_MEDIA = "only text is trained on: leave the row out"
REFUSED = {
    "functions": _FUNCTIONS,
    "function_call": _FUNCTIONS,
    "image": _MEDIA,
    "images": _MEDIA,
    "audio": _MEDIA,
    "audios": _MEDIA,
    "video": _MEDIA,
    "videos": _MEDIA,
}


def read_conversation(record: Record, where: str, unread: Counter[str]) -> Conversation:
    """Return a row's conversation, and count its keys that are not read. Raises DataError."""
    conversation = _read(record, where, unread, FORMATS, further=())
    turns = conversation.turns
    need(
        any(turn.role == "assistant" for turn in turns),
        f"{where} has no answer of the assistant: there is nothing to train on.",
        DataError,
    )
    need(
        any(turn.role == "assistant" and turn.learnt for turn in turns),
        f"{where} has weight 0 at every answer: there is nothing to train on.",
        DataError,
    )
    return conversation


def read_pair(record: Record, where: str, unread: Counter[str]) -> tuple[Conversation, Turn, Turn]:
    """Return a pair's prompt, its chosen and its rejected answer. Raises DataError."""
    prompt = _read(record, where, unread, PAIR_FORMATS, further=("chosen", "rejected"))
    need(
        prompt.turns[-1].role != "assistant",
        f"{where} ends with an answer of the assistant: the answers to compare belong under chosen "
        "and rejected.",
        DataError,
    )
    chosen = _answer(record.get("chosen"), f"{where}, chosen,", unread)
    rejected = _answer(record.get("rejected"), f"{where}, rejected,", unread)
    need(
        chosen.message() != rejected.message(),
        f"{where} prefers an answer to itself: chosen and rejected are the same.",
        DataError,
    )
    return prompt, chosen, rejected


def describe_unread(name: str, unread: Counter[str]) -> list[str]:
    """Return the sentence that names the keys of a file that are not read, if there are any."""
    if not unread:
        return []
    keys = [f"{key} {count:,}" for key, count in unread.most_common(8)]
    return [f"{name}: keys that are not read, and how often each occurs: {', '.join(keys)}"]


def _read(
    record: Record,
    where: str,
    unread: Counter[str],
    formats: dict[str, Format],
    further: tuple[str, ...],
) -> Conversation:
    """Return the conversation of a row in one of the formats. Raises DataError."""
    names = [name for name in formats if name in record]
    if "prompt" in formats:
        need(
            len(names) == 1,
            f'{where} must have either "prompt" (text) or "messages" (a conversation).',
            DataError,
        )
    need(
        len(names) <= 1,
        f"{where} has {' and '.join(names)}: keep one of them.",
        DataError,
    )
    need(
        names,
        f'{where} has no conversation under "messages": write [{{"role": "user", "content": ...}}, '
        '...]. Rows with "conversations" (ShareGPT) or "instruction" and "output" (Alpaca) are '
        "read too.",
        DataError,
    )

    row_format = formats[names[0]]
    known = RECORDED_KEYS | {*row_format.keys, "system", "tools", *further}
    _check_keys(record, where, unread, known)
    turns = row_format.read(record, where, unread)
    check_outputs([turn.message() for turn in turns], where)
    tools = read_tools(record.get("tools"), where)
    if not record.get("system"):
        return Conversation(turns, tools)

    system = Turn("system", check_text(record["system"], f"{where}, system,"))
    need(
        turns[0].role != "system" or turns[0] == system,
        f"{where} has a system text and a message of the system: keep one of them.",
        DataError,
    )
    return Conversation(turns if turns[0] == system else [system, *turns], tools)


def _check_keys(record: Record, where: str, unread: Counter[str], known: set[str]) -> None:
    """Count the keys that are not known. Raises DataError for those that are refused."""
    for key, value in record.items():
        need(
            key not in REFUSED or not value,
            f"{where} has {key}: {REFUSED.get(key)}.",
            DataError,
        )
        if key not in known and key not in REFUSED:
            unread[key] += 1


def _messages(value: Any, where: str, unread: Counter[str], example: str) -> list[Turn]:
    """Return the turns of a list of messages. Raises DataError."""
    need(
        isinstance(value, list) and value,
        f"{where} has no conversation: write {example}.",
        DataError,
    )
    return [_turn(message, f"{where}, message {n},", unread) for n, message in enumerate(value, 1)]


def _turn(message: Any, where: str, unread: Counter[str]) -> Turn:
    """Return the turn of a message, in either form. Raises DataError."""
    if not isinstance(message, dict):
        message = {}
    stated = message.get("role", message.get("from"))
    role = ROLES.get(stated) if isinstance(stated, str) else None
    if role is None:
        stated = f"the role {stated!r}" if isinstance(stated, str) else "no role"
        raise DataError(f"{where} has {stated}: roles are system, user, assistant, tool.")

    _check_keys(message, where, unread, MESSAGE_KEYS | TOOL_KEYS.get(role, set()))
    further = _read_tool_keys(message, role, where, unread)
    content = join_parts(message.get("content", message.get("value")))
    calls = "tool_calls" in further
    if calls and content is None:
        content = ""
    content = check_text(content, f"{where} the {role}'s content", calls or role == "tool")

    thinking = message.get("reasoning_content")
    if thinking:
        need(
            role == "assistant" and THINK not in content and THINK_END not in content,
            f"{where} has reasoning_content, which belongs to an answer without {THINK} in it.",
            DataError,
        )
        thinking = check_text(thinking, f"{where} the reasoning_content")
        content = f"{THINK}{thinking}{THINK_END}{content}"

    weight = message.get("weight")
    if weight is None:
        weight = 1
    need(
        weight in (0, 1),
        f"{where} has the weight {weight!r}: it is 1, or 0 for a message that is not learnt.",
        DataError,
    )
    return Turn(role, content, bool(weight), further)


def _read_tool_keys(message: Message, role: str, where: str, unread: Counter[str]) -> Message:
    """Return what a message has of tools: calls, or whose output it is. Raises DataError."""
    calls = message.get("tool_calls")
    need(
        role == "assistant" or not calls,
        f"{where} has tool_calls, which belong to an answer of the assistant.",
        DataError,
    )
    if role == "assistant":
        return {"tool_calls": read_calls(calls, where, unread)} if calls else {}

    further = {}
    for key in OUTPUT_KEYS:
        if role == "tool" and message.get(key) is not None:
            further[key] = check_text(message[key], f"{where} {key}")
    return further


def _answer(value: Any, where: str, unread: Counter[str]) -> Turn:
    """Return an answer of a pair: a text, or a message of the assistant, alone or in a list."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if not isinstance(value, dict):
        return Turn("assistant", check_text(value, where))
    turn = _turn(value, where, unread)
    need(turn.role == "assistant", f"{where} is a message of the {turn.role}.", DataError)
    return turn


def _read_messages(record: Record, where: str, unread: Counter[str]) -> list[Turn]:
    """DeepSeek's and OpenAI's format."""
    example = '"messages": [{"role": "user", "content": ...}, ...]'
    return _messages(record["messages"], where, unread, example)


def _read_sharegpt(record: Record, where: str, unread: Counter[str]) -> list[Turn]:
    """ShareGPT's format."""
    example = '"conversations": [{"from": "human", "value": ...}, ...]'
    return _messages(record["conversations"], where, unread, example)


def _read_alpaca(record: Record, where: str, unread: Counter[str]) -> list[Turn]:
    """Alpaca's format: the input follows the instruction on the lines below.

    "history" is a list of earlier questions with their answers. "output" may be missing in a pair.
    """
    turns = []
    for number, exchange in enumerate(record.get("history") or [], 1):
        place = f"{where}, history {number},"
        need(
            isinstance(exchange, list) and len(exchange) == 2,
            f"{place} is not a question with its answer.",
            DataError,
        )
        turns.append(Turn("user", check_text(exchange[0], place)))
        turns.append(Turn("assistant", check_text(exchange[1], place)))

    question = check_text(record["instruction"], f"{where}, instruction,")
    if record.get("input"):
        question += "\n" + check_text(record["input"], f"{where}, input,")
    turns.append(Turn("user", question))
    if "output" in record:
        turns.append(Turn("assistant", check_text(record["output"], f"{where}, output,")))
    return turns


def _read_prompt(record: Record, where: str, unread: Counter[str]) -> list[Turn]:
    """The prompt of a pair: text, or a list of messages."""
    if isinstance(record["prompt"], list):
        example = '"prompt": text, or [{"role": "user", "content": ...}, ...]'
        return _messages(record["prompt"], where, unread, example)
    return [Turn("user", check_text(record["prompt"], f"{where}, prompt,"))]


FORMATS = {
    "messages": Format(("messages",), _read_messages),
    "conversations": Format(("conversations",), _read_sharegpt),
    "instruction": Format(("instruction", "input", "output", "history"), _read_alpaca),
}
PAIR_FORMATS = {"prompt": Format(("prompt",), _read_prompt), **FORMATS}
