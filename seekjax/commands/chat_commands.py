"""The commands of `seekjax chat`: lines that begin with / and change the conversation."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from seekjax.data.chat import Message
from seekjax.errors import UsageError, need
from seekjax.registry import did_you_mean
from seekjax.storage import write_atomically

KEYS = (
    "Alt-Enter, or Enter after \\, begins a new line; the arrows call back earlier questions.\n"
    "Ctrl-C stops an answer; Ctrl-D ends. A question that begins with / needs a space before it."
)
SHOWN = 60  # characters of a question that is taken back


class Command(NamedTuple):
    """A command: `run` changes the messages, is given the rest of the line, returns a notice."""

    run: Callable[[list[Message], str], str]
    arguments: str
    about: str


def is_command(line: str) -> bool:
    """Return whether a line begins with a command's name, known or not, and not with a path."""
    return re.match(r"/[A-Za-z]*(\s|$)", line) is not None


def run_command(messages: list[Message], line: str) -> str:
    """Run the command in a line, and return what to print.

    Raises UsageError for an unknown command or what a command rejects, EOFError for /exit.
    """
    name, _, rest = line.strip().partition(" ")
    need(
        name in COMMANDS,
        f"there is no command {name}{did_you_mean(name, COMMANDS)} /help lists them.",
        UsageError,
    )
    return COMMANDS[name].run(messages, rest.strip())


def show_help(messages: list[Message], rest: str) -> str:
    """Return the commands and the keys."""
    forms = {name: f"{name} {command.arguments}" for name, command in COMMANDS.items()}
    width = max(map(len, forms.values()))
    lines = []
    for name, command in COMMANDS.items():
        form = forms[name].ljust(width)
        lines.append(f"{form}  {command.about}")
    return "\n".join([*lines, KEYS])


def reset(messages: list[Message], rest: str) -> str:
    """Remove everything but the system message."""
    messages[:] = [message for message in messages if message["role"] == "system"]
    return "(a new conversation)"


def set_system(messages: list[Message], rest: str) -> str:
    """Replace the system message, remove it for "-", or return it for nothing."""
    current = [message for message in messages if message["role"] == "system"]
    if not rest:
        return current[0]["content"] if current else "(there is no system message)"

    others = messages[len(current) :]
    messages.clear()
    if rest != "-":
        messages.append({"role": "system", "content": rest})
    messages += others
    return "(the system message is removed)" if rest == "-" else "(the system message is set)"


def undo(messages: list[Message], rest: str) -> str:
    """Remove the last question and its answer."""
    need(
        messages and messages[-1]["role"] == "assistant",
        "there is no question to take back.",
        UsageError,
    )
    messages.pop()
    question = messages.pop()["content"].replace("\n", " ")
    if len(question) > SHOWN:
        question = question[: SHOWN - 1] + "…"
    return f"(taken back: {question})"


def save(messages: list[Message], rest: str) -> str:
    """Write the conversation as a line of JSON, as `--sft.data` reads it.

    Raises UsageError if the file exists or cannot be written.
    """
    name = rest or time.strftime("chat-%Y%m%d-%H%M%S.jsonl")
    file = Path(name).expanduser()
    need(not file.exists(), f"there is a file {file} already: name another.", UsageError)
    row = json.dumps({"messages": messages}, ensure_ascii=False)
    try:
        write_atomically(file, f"{row}\n")
    except OSError as error:
        raise UsageError(f"{file} cannot be written ({error.strerror}): name another.") from error
    return f"(saved: {file})"


def leave(messages: list[Message], rest: str) -> str:
    """Raise EOFError, as Ctrl-D does."""
    raise EOFError


COMMANDS = {
    "/help": Command(show_help, "", "list the commands and keys"),
    "/reset": Command(reset, "", "begin a new conversation; the system message stays"),
    "/system": Command(set_system, "[TEXT]", "show the system message, or set it; - removes it"),
    "/undo": Command(undo, "", "take back the last question and its answer"),
    "/save": Command(save, "[FILE]", "write the conversation as a line of JSON to fine-tune on"),
    "/exit": Command(leave, "", "end, as Ctrl-D does"),
}
