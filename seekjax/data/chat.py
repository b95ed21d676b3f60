"""Conversations as text: DeepSeek's chat templates, and the thinking within an answer.

A template is a program that comes with the weights, so it runs in a sandbox (sandbox.py): it reads
the messages and builds text, and nothing else.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2

from seekjax.data.template_sandbox import Sandbox, budget
from seekjax.data.tokenizer import BOS, EOS, THINK, THINK_END, Tokenizer
from seekjax.errors import DataError
from seekjax.storage import kind_of, write_atomically

Message = dict[str, str]  # {"role": "system", "user" or "assistant", "content": text}
LONGEST = 2**20  # characters of a template
FILE = "chat_template.jinja"  # where checkpoints keep theirs

_TURNS = """{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}
{%- elif m['role'] == 'user' %}<｜User｜>{{ m['content'] }}
{%- else %}<｜Assistant｜>{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<｜Assistant｜>"""
BUILT_IN = {
    "v2": """{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\n\n' }}
{%- elif m['role'] == 'user' %}{{ 'User: ' + m['content'] + '\n\n' }}
{%- else %}{{ 'Assistant: ' + m['content'] + eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}""",
    "v3": _TURNS + "{% endif %}",
    "r1": _TURNS + "{{ '<think>\n' }}{% endif %}",  # the answer begins within the thinking
}
TemplateName = Literal["auto", "v2", "v3", "r1"]


@dataclass(frozen=True)
class Chat:
    """A template and the two tokens it is told of."""

    source: str
    template: jinja2.Template
    bos: str
    eos: str

    def render(self, messages: Sequence[Message], answer: bool = True, **settings: Any) -> str:
        """The conversation as text, up to where the assistant's next answer begins. Raises
        DataError where the template will not have it.
        """
        try:
            with budget([*messages, settings]):
                return self.template.render(
                    messages=list(messages),
                    bos_token=self.bos,
                    eos_token=self.eos,
                    add_generation_prompt=answer,
                    **settings,
                )
        except Exception as error:  # a template may fail in any way Python can
            raise DataError(
                "the chat template fails on this conversation: "
                f"{str(error).partition(chr(10))[0]}; name another with --template."
            ) from error

    def ids(self, tokenizer: Tokenizer, messages: Sequence[Message], **settings: Any) -> list[int]:
        """The conversation as tokens, names of special tokens being those tokens."""
        return tokenizer.encode(self.render(messages, **settings), special=True).tolist()

    def save(self, folder: Path, first: bool = True) -> None:
        """Leave the template beside the weights of a run, so that `seekjax chat` asks as the model
        was taught; the `first` process does. Raises DataError where those that were saved have
        learnt another.
        """
        file = folder / FILE
        if (
            file.is_file()
            and kind_of(folder) == "run"
            and file.read_text(encoding="utf-8") != self.source
        ):
            raise DataError(
                f"the run in {folder} learns another chat template ({file}): name that "
                "one with --post.template, or another --out."
            )
        if first:
            write_atomically(file, self.source)


def load_chat(folder: Path, tokenizer: Tokenizer, name: TemplateName = "auto") -> Chat:
    """The template of `find_template`, ready to render. Raises DataError."""
    settings = _settings(folder / "tokenizer_config.json")
    return compile_chat(
        find_template(folder, tokenizer, name),
        _token(settings.get("bos_token"), BOS),
        _token(settings.get("eos_token"), EOS),
    )


def find_template(folder: Path, tokenizer: Tokenizer, name: TemplateName = "auto") -> str:
    """The text of a checkpoint's template (chat_template.jinja or tokenizer_config.json in its
    folder), or of a built-in one by name.

    auto without one in the folder: v3 where the tokenizer has DeepSeek's tokens for the two
    speakers, else v2. Raises DataError.
    """
    source = None
    if name != "auto":
        source = BUILT_IN[name]
    elif (file := folder / FILE).is_file():
        source = file.read_text(encoding="utf-8")
    elif isinstance(
        given := _settings(folder / "tokenizer_config.json").get("chat_template"), list
    ):  # several, by name
        source = next(
            (
                one.get("template")
                for one in given
                if isinstance(one, dict) and one.get("name") == "default"
            ),
            None,
        )
    else:
        source = given
    return (
        source
        if source is not None
        else BUILT_IN["v2" if None in (tokenizer.user, tokenizer.assistant) else "v3"]
    )


def compile_chat(source: str, bos: str = BOS, eos: str = EOS) -> Chat:
    """A template ready to render. Raises DataError."""
    if not isinstance(source, str) or len(source) > LONGEST:
        raise DataError(
            f"the chat template is no text of at most {LONGEST} characters; name a "
            "built-in one with --template."
        )

    try:
        with budget(source):
            return Chat(source, Sandbox().template(source), bos, eos)
    except Exception as error:  # Python's compiler too may refuse what a template becomes
        raise DataError(
            "the chat template is no Jinja that we run: "
            f"{str(error).partition(chr(10))[0]}; name a built-in one with --template."
        ) from error


class ReasoningParser:
    """Tells the thinking of an answer from the rest, as it comes. `feed` gives (is it thinking,
    text) pieces; tags belong to neither.
    """

    def __init__(self, thinking: bool = False):
        self.thinking, self._held = thinking, ""

    def feed(self, text: str, last: bool = False) -> list[tuple[bool, str]]:
        """What is certain after `text`: the beginning of a tag waits until it is one, or is
        none.
        """
        pieces, text = [], self._held + text
        while (at := text.find(tag := THINK_END if self.thinking else THINK)) >= 0:
            pieces.append((self.thinking, text[:at]))
            self.thinking, text = not self.thinking, text[at + len(tag) :]
        keep = (
            0 if last else max((n for n in range(1, len(tag)) if text.endswith(tag[:n])), default=0)
        )
        self._held = text[len(text) - keep :]
        return [
            (kind, piece)
            for kind, piece in (*pieces, (self.thinking, text[: len(text) - keep]))
            if piece
        ]


def _settings(path: Path) -> dict:
    """tokenizer_config.json, {} without one."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON ({error}); copy it again or name a template with --template."
        ) from error
    return found if isinstance(found, dict) else {}


def _token(value: Any, default: str) -> str:
    """A token's text, in either way that tokenizer_config.json writes it."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else default
