"""What a row of a fine-tuning file may hold: the formats, their keys, and what becomes of each.

A conversation is written in one of these formats, recognised by the first key:

    {"messages": [{"role": "user", "content": ...}, ...]}             DeepSeek's and OpenAI's
    {"conversations": [{"from": "human", "value": ...}, ...]}         ShareGPT
    {"instruction": ..., "input": ..., "output": ...}                 Alpaca

and a pair of answers as {"prompt": ...} or one of the formats above without the answer, with
"chosen" and "rejected". Each format may have a "system" text. In a message of the assistant,
"reasoning_content" is the thinking before the content (DeepSeek's API), and "weight": 0 keeps the
message out of training (OpenAI). Keys that would change the meaning and cannot be honoured are
refused; all others are counted, for a run to name them.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from seekjax.data import DataError
from seekjax.data.chat import Message
from seekjax.data.tokenizer import THINK, THINK_END, find_special_token
from seekjax.errors import need

Record = dict[str, Any]


class Turn(NamedTuple):
    """A message, and whether it is learnt if it is the assistant's."""

    role: str
    content: str
    learnt: bool = True


class Format(NamedTuple):
    """A format of conversations."""

    keys: tuple[str, ...]  # that it reads; a row with the first of them is in this format
    read: Callable[[Record, str, Counter[str]], list[Turn]]


# What other projects call the three roles.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
MESSAGE_KEYS = {"role", "content", "from", "value", "reasoning_content", "weight"}

# What `seekjax sample` records of each conversation that it writes.
RECORDED_KEYS = {"task", "level", "reward"}

# Keys that change what a row means. Empty ones are ignored.
_TOOLS = "tools are not trained on: leave the row out, or write the call into the content"
_MEDIA = "only text is trained on: leave the row out"
REFUSED = {
    "tools": _TOOLS,
    "tool_calls": _TOOLS,
    "tool_call_id": _TOOLS,
    "functions": _TOOLS,
    "function_call": _TOOLS,
    "image": _MEDIA,
    "images": _MEDIA,
    "audio": _MEDIA,
    "audios": _MEDIA,
    "video": _MEDIA,
    "videos": _MEDIA,
}


def read_conversation(record: Record, where: str, unread: Counter[str]) -> list[Turn]:
    """Return the turns of a row, and count its keys that are not read. Raises DataError."""
    turns = _read(record, where, unread, FORMATS, further=())
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
    return turns


def read_pair(record: Record, where: str, unread: Counter[str]) -> tuple[list[Turn], str, str]:
    """Return the turns of a pair's prompt, its chosen and its rejected answer. Raises DataError."""
    turns = _read(record, where, unread, PAIR_FORMATS, further=("chosen", "rejected"))
    need(
        turns[-1].role != "assistant",
        f"{where} ends with an answer of the assistant: the answers to compare belong under chosen "
        "and rejected.",
        DataError,
    )
    chosen = _answer(record.get("chosen"), f"{where}, chosen,", unread)
    rejected = _answer(record.get("rejected"), f"{where}, rejected,", unread)
    need(
        chosen != rejected,
        f"{where} prefers an answer to itself: chosen and rejected are the same.",
        DataError,
    )
    return turns, chosen, rejected


def messages_of(turns: list[Turn]) -> list[Message]:
    """Return turns as the messages that a chat template takes."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]


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
) -> list[Turn]:
    """Return the turns of a row in one of the formats. Raises DataError."""
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
    _check_keys(record, where, unread, RECORDED_KEYS | {*row_format.keys, "system", *further})
    turns = row_format.read(record, where, unread)
    if not record.get("system"):
        return turns

    system = Turn("system", check_text(record["system"], f"{where}, system,"))
    need(
        turns[0].role != "system" or turns[0] == system,
        f"{where} has a system text and a message of the system: keep one of them.",
        DataError,
    )
    return turns if turns[0] == system else [system, *turns]


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
        raise DataError(f"{where} has {stated}: roles are system, user, assistant.")

    _check_keys(message, where, unread, MESSAGE_KEYS)
    content = message.get("content", message.get("value"))
    content = check_text(_join_parts(content), f"{where} the {role}'s content")

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
    return Turn(role, content, bool(weight))


def _join_parts(content: Any) -> Any:
    """Return the text of a content that is a list of texts, and any other as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            return content
        texts.append(part.get("text"))
    return "".join(texts) if all(isinstance(text, str) for text in texts) else content


def _answer(value: Any, where: str, unread: Counter[str]) -> str:
    """Return an answer of a pair: a text, or a message of the assistant, alone or in a list."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if not isinstance(value, dict):
        return check_text(value, where)
    turn = _turn(value, where, unread)
    need(turn.role == "assistant", f"{where} is a message of the {turn.role}.", DataError)
    return turn.content


def check_text(value: Any, where: str) -> str:
    """Return the text of a message, checked. Raises DataError."""
    need(value is not None, f"{where} is missing.", DataError)
    need(isinstance(value, str), f"{where} is a {type(value).__name__}, not text.", DataError)
    need(value.strip(), f"{where} is empty.", DataError)

    # Text that is not what it seems
    special = find_special_token(value)
    need(
        special is None,
        f"{where} spells {special}, which would become that token: write it differently.",
        DataError,
    )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a character (\\u{ord(value[error.start]):04x}): repair it."
        ) from error
    return value


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
