"""Conversations as text: DeepSeek's chat templates, and the reasoning inside an answer.

A template is a program that comes with the weights, so it runs in a sandbox (template_sandbox.py)
that only lets it read the messages and build text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from seekjax.config import Template
from seekjax.data.built_in_templates import BUILT_IN, with_tools
from seekjax.data.template_meter import budget
from seekjax.data.template_sandbox import LONGEST, Sandbox
from seekjax.data.template_settings import with_defaults
from seekjax.data.text_ends import (
    SETTINGS,
    TEMPLATE,
    is_old_chat_run,
    read_settings,
    read_text,
    token_text,
)
from seekjax.data.tokenizer import BOS, EOS, THINK, THINK_END, Tokenizer
from seekjax.errors import DataError, need
from seekjax.storage import kind_of, write_atomically

# {"role": "system", "user", "assistant" or "tool", "content": text}. An answer may have
# "tool_calls" and an output "tool_call_id" and "name", in OpenAI's form.
Message = dict[str, Any]


@dataclass(frozen=True)
class ChatTemplate:
    """A compiled template, with the texts of the two tokens that it inserts."""

    source: str
    template: jinja2.Template
    bos: str
    eos: str

    def render(
        self,
        messages: Sequence[Message],
        generation_prompt: bool = True,
        tools: Sequence[dict[str, Any]] | None = None,
        **settings: Any,
    ) -> str:
        """Return the conversation as text.

        With `generation_prompt` the text ends where the assistant's next answer begins. `tools` are
        what the assistant may call, in OpenAI's form; as in transformers, a template gets None
        where there are none. Further settings are passed to the template, as thinking=True.

        Raises:
            DataError: the template rejects the conversation, or fails on it.
        """
        try:
            with budget([*messages, list(tools or ()), settings]):
                return self.template.render(
                    messages=list(messages),
                    tools=list(tools) if tools else None,
                    bos_token=self.bos,
                    eos_token=self.eos,
                    add_generation_prompt=generation_prompt,
                    **settings,
                )
        except Exception as error:  # a template may fail in any way that Python can
            raise DataError(
                f"the chat template fails on this conversation: {_first_line(error)}; name another "
                "with --template."
            ) from error

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        **settings: Any,
    ) -> list[int]:
        """Return the conversation as token ids.

        Names of special tokens become those tokens where the template writes them, and stay text
        where the messages or tools contain them.
        """
        try:
            given = {"messages": list(messages), "tools": list(tools or ()), **settings}
            plain, mark = tokenizer.control.break_names(given)
        except RecursionError as error:
            raise DataError("a message puts lists into lists without end.") from error
        text = self.render(**plain)
        return tokenizer.encode(text, special=True, mark=mark).tolist()

    def save(self, folder: Path, first: bool = True) -> None:
        """Save the template next to a run's weights, for `seekjax chat` to use the same one.

        Only the `first` process writes. A run keeps its file, which may be of an earlier version.

        Raises:
            DataError: the run in this folder was trained with another template.
        """
        file = folder / TEMPLATE

        if file.is_file() and kind_of(folder) == "run":
            need(
                with_tools(read_text(file)) == with_tools(self.source),
                f"the run in {folder} was trained with another chat template ({file}): name that "
                "one with --sft.template (or --grpo.template ...), or another --out.",
                DataError,
            )
        elif first:
            write_atomically(file, self.source)


def load_chat(
    folder: Path | None,
    tokenizer: Tokenizer,
    name: Template = "auto",
    settings: Sequence[str] = (),
) -> ChatTemplate:
    """Return the template of `find_template` with these settings, compiled.

    Raises:
        DataError: tokenizer_config.json is not JSON, the template does not compile, or it has no
            such setting.
    """
    source = with_defaults(find_template(folder, tokenizer, name), settings)
    bos, eos = tokenizer.name_of(tokenizer.begin), tokenizer.name_of(tokenizer.stops[0])
    if folder is not None:
        named = read_settings(folder / SETTINGS)
        bos = token_text(named.get("bos_token")) or bos
        eos = token_text(named.get("eos_token")) or eos
        if is_old_chat_run(folder):
            bos = BOS
    return compile_chat(source, bos or BOS, eos or EOS)


def load_trained_chat(
    home: Path | None,
    out: Path | None,
    tokenizer: Tokenizer,
    name: Template,
    settings: Sequence[str],
) -> tuple[ChatTemplate, Tokenizer]:
    """Return the template that a run in `out` is trained with, and a tokenizer with its begin.

    `home` is the folder of its initial model. A run that version 0.1 began goes on as it did.

    Raises:
        DataError: as `load_chat`.
    """
    chat = load_chat(home, tokenizer, name, settings)
    if out is not None and is_old_chat_run(out):
        chat = compile_chat(chat.source, BOS, chat.eos)

    begin = tokenizer.id_of(chat.bos)
    return chat, tokenizer if begin is None else tokenizer.beginning_with(begin)


def find_template(
    folder: Path | None,
    tokenizer: Tokenizer,
    name: Template = "auto",
) -> str:
    """Return the source of a built-in template by name, or with "auto" of the folder's own.

    The folder's own is chat_template.jinja, or chat_template in tokenizer_config.json. A folder
    without one gets v3 if the tokenizer has DeepSeek's tokens for user and assistant, else v2.

    Raises:
        DataError: tokenizer_config.json is not JSON.
    """
    if name != "auto":
        return BUILT_IN[name]
    if folder is not None:
        source = _own_template(folder)
        if source is not None:
            return with_tools(source)

    if tokenizer.user is None or tokenizer.assistant is None:
        return BUILT_IN["v2"]
    return BUILT_IN["v3"]


def _own_template(folder: Path) -> Any:
    """Return the template in a folder's files, or None. Raises DataError."""
    file = folder / TEMPLATE
    if file.is_file():
        return read_text(file)

    source = read_settings(folder / SETTINGS).get("chat_template")
    return _default_template(source) if isinstance(source, list) else source


def compile_chat(
    source: str,
    bos: str = BOS,
    eos: str = EOS,
) -> ChatTemplate:
    """Return a compiled template.

    Raises:
        DataError: the source is too long, not valid Jinja, or uses a feature that is not allowed.
    """
    if not isinstance(source, str) or len(source) > LONGEST:
        raise DataError(
            f"the chat template is not a text of at most {LONGEST} characters; name a built-in one "
            "with --template."
        )

    try:
        with budget(source):
            template = Sandbox().compile_metered(source)
    except Exception as error:  # Python's compiler may refuse what a template is translated to
        raise DataError(
            "the chat template is not valid Jinja, or uses a feature that seekjax does not allow: "
            f"{_first_line(error)}; name a built-in one with --template."
        ) from error
    return ChatTemplate(source, template, bos, eos)


class ReasoningParser:
    """Separates the reasoning of an answer (<think>...</think>) from the rest, as text arrives."""

    def __init__(self, thinking: bool = False):
        self.thinking = thinking
        self._held = ""  # a suffix that may be the beginning of a tag

    def feed(self, text: str, last: bool = False) -> list[tuple[bool, str]]:
        """Return the pieces that `text` completes, each with whether it is reasoning.

        A suffix that may begin a tag is held back until more text arrives, or `last` is true. The
        tags themselves are in no piece.
        """
        text = self._held + text
        pieces = []

        # Each complete tag ends a piece.
        tag = self._next_tag()
        position = text.find(tag)
        while position >= 0:
            pieces.append((self.thinking, text[:position]))
            text = text[position + len(tag) :]

            self.thinking = not self.thinking
            tag = self._next_tag()
            position = text.find(tag)

        held = 0 if last else overlap(text, tag)
        certain = len(text) - held
        pieces.append((self.thinking, text[:certain]))
        self._held = text[certain:]
        return [piece for piece in pieces if piece[1]]

    def _next_tag(self) -> str:
        return THINK_END if self.thinking else THINK


def overlap(text: str, tag: str) -> int:
    """Return the length of the longest proper beginning of `tag` that `text` ends with."""
    for length in range(len(tag) - 1, 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0


def _default_template(templates: list) -> Any:
    """Return the template named "default" in a list of named ones, or None."""
    for entry in templates:
        if isinstance(entry, dict) and entry.get("name") == "default":
            return entry.get("template")
    return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
