"""Conversations of .jsonl files as training samples."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seekjax.data import DataError, Source
from seekjax.data.chat import Message
from seekjax.data.split import hash_fraction, held_out_mask
from seekjax.errors import need
from seekjax.post.samples.jsonl import Rows, open_rows
from seekjax.post.samples.row import Conversation, describe_unread, read_conversation
from seekjax.post.samples.template import ChatFormat, Sample


@dataclass
class ChatSamples(Sequence):
    """Some samples of a file, rendered on access."""

    rows: Rows
    chat_format: ChatFormat
    places: np.ndarray  # [n, 2]: row, and which of its samples

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row, which = map(int, self.places[index])
        where = self.rows.name_of(row)
        conversation = read_conversation(self.rows[row], where, Counter())
        return render(where, conversation, self.chat_format)[which]._asdict()


def load_chats(
    name: str,
    weight: float,
    chat_format: ChatFormat,
    sequence: int,
    held_out: float,
    drop_long: bool,
    section: str,
) -> Source:
    """Open a file of conversations, with every row read once and checked. Raises DataError.

    held_out: share of conversations that is kept out of training.
    """
    rows = open_rows(name, f"{section}.chats")
    places, keys, dropped = [], [], 0
    unread: Counter[str] = Counter()
    for row, record in rows.records():
        where = rows.name_of(row)
        conversation = read_conversation(record, where, unread)
        for which, sample in enumerate(render(where, conversation, chat_format)):
            if fits(where, len(sample.tokens), sequence, drop_long, section):
                places.append((row, which))
                keys.append(question_key(conversation.messages()))
            else:
                dropped += 1
    need(
        places,
        f"every conversation of {name} is longer than data.sequence {sequence}: make it longer.",
        DataError,
    )

    mask = split_held_out(keys, held_out)
    train = ChatSamples(rows, chat_format, np.array(places)[~mask])
    kept = ChatSamples(rows, chat_format, np.array(places)[mask])
    counts = {"train": len(train), "held_out": len(kept), "too_long": dropped}
    facts = {**rows.facts(), **counts}
    return Source(name, weight, train, kept, (facts,), tuple(describe_unread(name, unread)))


def render(where: str, conversation: Conversation, chat_format: ChatFormat) -> list[Sample]:
    """Return the samples of a row. Raises DataError."""
    learnt = [turn.learnt for turn in conversation.turns]
    try:
        return chat_format.samples(conversation.messages(), learnt, conversation.tools)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def fits(where: str, tokens: int, sequence: int, drop_long: bool, section: str) -> bool:
    """Return whether a sample fits in a row; one token more, for the last is only predicted.

    Raises DataError for a longer sample, unless long ones are dropped.
    """
    if tokens <= sequence + 1:
        return True
    need(
        drop_long,
        f"{where} has {tokens} tokens, and data.sequence {sequence} holds {sequence + 1}: make it "
        f"longer, or leave such samples out with --{section}.drop-long.",
        DataError,
    )
    return False


def question_key(messages: Sequence[Message]) -> str:
    """Return all messages before the first answer: the key that decides a conversation's side.

    So several answers to one question are on the same side.
    """
    question = []
    for message in messages:
        if message["role"] == "assistant":
            break
        question.append([message["role"], message["content"]])
    return json.dumps(question)


def split_held_out(keys: Sequence[str], share: float) -> np.ndarray:
    """Return a mask of the keys to keep out of training, by their hash.

    Equal keys are on the same side. With two different keys and a share above 0, each side has at
    least one.
    """
    distinct = list(dict.fromkeys(keys))
    fractions = np.array([hash_fraction(key) for key in distinct])
    held_out = dict(zip(distinct, held_out_mask(fractions, share)))
    return np.array([held_out[key] for key in keys])
