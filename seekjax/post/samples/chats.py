"""Conversations as training samples: which tokens a template makes of them, and which of those the
assistant has said.

A sample is what the model will meet when it is used: the prompt exactly as `chat` and the rollouts
render it, the answer, and the end of the turn.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seekjax.data import DataError, Tokenizer
from seekjax.data.chat import ChatTemplate, Message
from seekjax.data.files import JsonLines
from seekjax.data.split import hash_fraction, held_out_mask
from seekjax.data.tokenizer import THINK, find_special_token
from seekjax.storage import file_sha256

ROLES = ("system", "user", "assistant")
HERE = "\0"  # stands for an answer when a template is asked how it writes one


class Sample(NamedTuple):
    tokens: np.ndarray  # int32
    trained: np.ndarray  # bool: what the assistant has said, and the end of its turns


class Form:
    """How a template writes conversations, found out once. Raises DataError where it writes none
    that can be learnt."""

    def __init__(self, chat: ChatTemplate, tokenizer: Tokenizer):
        self.chat, self.tokenizer = chat, tokenizer
        asked = [{"role": "user", "content": "1+1"}]
        before, ready = (
            chat.render(asked, generation_prompt=generation_prompt)
            for generation_prompt in (False, True)
        )
        if ready == before:
            raise DataError(
                "the chat template has no generation prompt, so nothing tells the model "
                "to answer: name another with --post.template."
            )
        head, found, tail = chat.render(
            [*asked, {"role": "assistant", "content": HERE}], generation_prompt=False
        ).partition(HERE)
        self.lead, self.opened = (
            head[len(ready) :],
            ready[len(head) :],
        )  # what stands before an answer; what the template says of it already: R1's <think>
        if not found or not (
            head.startswith(ready) or (ready.startswith(head) and self.opened.strip() == THINK)
        ):
            raise DataError(
                "the chat template does not write an answer behind its generation prompt: "
                "name another with --post.template."
            )
        if not (end := self._ids(tail)).size or end[0] != tokenizer.eos:
            raise DataError(
                "the chat template does not end an answer with the tokenizer's end of "
                "text, so the model would never learn to stop: "
                "name another with --post.template."
            )

    def prompt(self, messages: Sequence[Message]) -> np.ndarray:
        """The tokens up to where the assistant's next answer begins."""
        return self._ids(self.chat.render(messages))

    def answer(self, content: str) -> np.ndarray:
        """The tokens of an answer, its end included."""
        if self.opened:
            begun = self.opened.strip()
            if not content.lstrip().startswith(begun):
                raise DataError(
                    f"the chat template begins every answer with {begun}, and this one "
                    "has none: name another with --post.template."
                )
            content = (
                content.lstrip()
                .removeprefix(begun)
                .removeprefix(self.opened[len(self.opened.rstrip()) :])
            )
        return np.append(self._ids(self.lead + content), np.int32(self.tokenizer.eos))

    def samples(self, messages: Sequence[Message]) -> list[Sample]:
        """Every answer trained on once, behind what the model would have read. Most conversations
        are one sample; but templates drop the thinking of answers in the past, so an answer that
        later turns show otherwise than it was given ends a sample of its own.
        """
        found: list[Sample] = []
        for i in reversed(
            [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        ):
            prompt = self.prompt(messages[:i])
            tokens = np.concatenate([prompt, self.answer(messages[i]["content"])])
            home = next(
                (
                    sample
                    for sample in found
                    if np.array_equal(sample.tokens[: len(tokens)], tokens)
                ),
                None,
            )
            if home is None:
                home = Sample(tokens, np.zeros(len(tokens), bool))
                found.append(home)
            home.trained[len(prompt) : len(tokens)] = True
        return found[::-1]

    def fingerprint(self) -> str:
        """A hash that tells templates apart by what they write."""
        talk = [
            {"role": role, "content": "<think>1</think>2"}
            for role in ("system", "user", "assistant", "user")
        ]
        return hashlib.sha256(self.chat.render(talk).encode()).hexdigest()

    def _ids(self, text: str) -> np.ndarray:
        return self.tokenizer.encode(text, special=True)


class Rows(JsonLines):
    """The objects of a .jsonl file; `file[row]` and `where(row)`."""

    def where(self, row: int) -> str:
        """What to call a row in a message."""
        return f"{self.name} line {self.lines[row][0]}"

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        where = f"{self.name} line {number}"
        try:
            record = self.record(line, number)
        except DataError:
            raise
        except (
            RecursionError,
            ValueError,
        ) as error:  # brackets nested a thousand deep, a number of thousands of digits
            raise DataError(
                f"{where} is no JSON that we read ({type(error).__name__}): repair or "
                "delete that line."
            ) from error
        if not isinstance(record, dict):
            raise DataError(f"{where} is a JSON {type(record).__name__}, not an object.")
        return record

    def sha256(self) -> str:
        return file_sha256(self.path)


def open_rows(name: str, field: str) -> Rows:
    """A .jsonl file named in the config. Raises DataError."""
    path = Path(name).expanduser()
    if path.suffix != ".jsonl" or not path.is_file():
        raise DataError(
            f"{name} is not there: {field} takes .jsonl files."
            if not path.exists()
            else f"{name} is no .jsonl file: {field} takes only those."
        )
    return Rows(path, name)


def messages_of(value: Any, where: str) -> list[Message]:
    """What stands under "messages", checked. Raises DataError."""
    if not isinstance(value, list) or not value:
        raise DataError(
            f'{where} has no conversation under "messages": write [{{"role": "user", '
            '"content": ...}}, ...].'
        )
    checked = []
    for number, message in enumerate(value, 1):
        turn = f"{where}, message {number},"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise DataError(
                f"{turn} has "
                f"{f'the role {role!r}' if isinstance(role, str) else 'no role'}: roles "
                f"are {', '.join(ROLES)}."
            )
        checked.append(
            {
                "role": role,
                "content": text_of(message.get("content"), f"{turn} the {role}'s content"),
            }
        )
    return checked


def text_of(value: Any, where: str) -> str:
    """Text that a person or a model has said, checked. Raises DataError."""
    if not isinstance(value, str):
        raise DataError(
            f"{where} is {'missing' if value is None else f'a {type(value).__name__}, not text'}."
        )
    if not value.strip():
        raise DataError(f"{where} is empty.")
    if named := find_special_token(value):
        raise DataError(
            f"{where} spells {named}, which would become that token: write it otherwise."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a character (\\u{ord(value[error.start]):04x}): repair it."
        ) from error
    return value


@dataclass
class Samples:
    """Some samples of a file, by place: [n, 2] row, which of its samples. Rendered when they are
    asked for."""

    rows: Rows
    form: Form
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row, which = map(int, self.places[index])
        return conversation(self.rows, row, self.rows[row], self.form)[which]._asdict()


def conversation(rows: Rows, row: int, record: dict[str, Any], form: Form) -> list[Sample]:
    """The samples of a row. Raises DataError."""
    where = rows.where(row)
    messages = messages_of(record.get("messages"), where)
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(
            f"{where} has no answer of the assistant: there is nothing to learn from it."
        )
    try:
        return form.samples(messages)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def asked(messages: Sequence[Message]) -> str:
    """What decides the side of a conversation: all that is said before the first answer, so that
    several answers to one question stay together."""
    first = next(
        (i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages)
    )
    return json.dumps([[message["role"], message["content"]] for message in messages[:first]])


def held_out_side(keys: Sequence[str], share: float) -> np.ndarray:
    """Bool per key: which are kept out of training, by hash, copies together; at least one on each
    side where there are two and a share is asked for."""
    distinct = list(dict.fromkeys(keys))
    fractions = np.array([hash_fraction(key) for key in distinct])
    held_out = dict(zip(distinct, held_out_mask(fractions, share)))
    return np.array([held_out[key] for key in keys])
