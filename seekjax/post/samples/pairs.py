"""Pairs of a better and a worse answer to one prompt, from .jsonl files.

A row is {"prompt": text, "chosen": text, "rejected": text}; row.py has its other forms.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from seekjax.config import DataConfig, DpoConfig
from seekjax.data import Corpus, DataError, Source
from seekjax.data.batches import READ_AHEAD, Batches, mix_training
from seekjax.data.corpus import need_distinct
from seekjax.errors import need
from seekjax.post.samples.chats import fits, question_key, split_held_out
from seekjax.post.samples.jsonl import Rows, open_rows
from seekjax.post.samples.row import describe_unread, read_pair
from seekjax.post.samples.template import ChatFormat


class Pair(NamedTuple):
    """A prompt and its two answers, as tokens."""

    key: str  # decides the side of the split
    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray

    def texts(self) -> Iterator[np.ndarray]:
        """Yield prompt and answer together, the chosen one first."""
        for answer in (self.chosen, self.rejected):
            yield np.concatenate([self.prompt, answer])


@dataclass
class Pairs(Sequence):
    """Some pairs of a file, rendered on access: {"tokens", "segments", "trained"} [2, window]."""

    rows: Rows
    chat_format: ChatFormat
    places: np.ndarray  # [n]: rows of the file
    window: int
    pad: int

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row = int(self.places[index])
        where = self.rows.name_of(row)
        pair = render_pair(where, self.rows[row], self.chat_format, Counter())
        arrays = {
            "tokens": np.full((2, self.window), self.pad, np.int32),
            "segments": np.zeros((2, self.window), np.int32),
            "trained": np.zeros((2, self.window), bool),
        }
        for side, text in enumerate(pair.texts()):
            arrays["tokens"][side, : len(text)] = text
            arrays["segments"][side, : len(text)] = 1
            arrays["trained"][side, len(pair.prompt) : len(text)] = True
        return arrays


def render_pair(
    where: str, record: dict[str, Any], chat_format: ChatFormat, unread: Counter[str]
) -> Pair:
    """Return the tokens of a row, and count its keys that are not read. Raises DataError."""
    given, chosen, rejected = read_pair(record, where, unread)
    messages = given.messages()
    try:
        prompt, better = chat_format.exchange(messages, chosen.message(), given.tools)
        _, worse = chat_format.exchange(messages, rejected.message(), given.tools)
        return Pair(question_key(messages), prompt, better, worse)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def load_pairs(dpo: DpoConfig, data: DataConfig, chat_format: ChatFormat) -> Corpus:
    """Return the sources of dpo.pairs, with every row read once and checked. Raises DataError."""
    need(
        dpo.pairs,
        "there is nothing to learn from: name .jsonl files with --dpo.pairs.",
        DataError,
    )
    need_distinct(dpo.pairs, "dpo.pairs", "name it once.")
    weight = 1 / len(dpo.pairs)
    sources = []
    for name in dpo.pairs:
        sources.append(_load_file(name, weight, dpo.drop_long, data, chat_format))
    return Corpus(tuple(sources))


def _load_file(
    name: str, weight: float, drop_long: bool, data: DataConfig, chat_format: ChatFormat
) -> Source:
    rows = open_rows(name, "dpo.pairs")
    places, keys, dropped = [], [], 0
    unread: Counter[str] = Counter()
    for row, record in rows.records():
        where = rows.name_of(row)
        pair = render_pair(where, record, chat_format, unread)
        size = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
        if fits(where, size, data.sequence, drop_long, "dpo"):
            places.append(row)
            keys.append(pair.key)
        else:
            dropped += 1
    need(
        places,
        f"every pair of {name} is longer than data.sequence {data.sequence}: make it longer.",
        DataError,
    )

    def side(mask: np.ndarray) -> Pairs:
        return Pairs(
            rows=rows,
            chat_format=chat_format,
            places=np.array(places)[mask],
            window=data.sequence + 1,
            pad=chat_format.tokenizer.pad,
        )

    mask = split_held_out(keys, data.held_out)
    train, kept = side(~mask), side(mask)
    counts = {"train": len(train), "held_out": len(kept), "too_long": dropped}
    facts = {**rows.facts(), **counts}
    return Source(name, weight, train, kept, (facts,), tuple(describe_unread(name, unread)))


def pair_batches(
    corpus: Corpus,
    batch: int,
    seed: int,
    fingerprint: dict[str, Any],
    process_index: int,
    process_count: int,
) -> Batches:
    """Return endless batches of this process, int32 [batch / process_count, sequence + 1].

    The two texts of a pair are neighbours. The position is exact, and belongs to the settings in
    `fingerprint` and to these.
    """
    own_pairs = mix_training(corpus, seed)[process_index::process_count]
    pairs = own_pairs.to_iter_dataset(READ_AHEAD)

    def flatten(pairs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: x.reshape(-1, x.shape[-1]) for name, x in pairs.items()}

    batches = pairs.batch(batch // process_count // 2).map(flatten)
    settings = {
        "seed": seed,
        "process": f"{process_index} of {process_count}",
        "corpus": corpus.fingerprint(),
    }
    return Batches(iter(batches), fingerprint | settings)
