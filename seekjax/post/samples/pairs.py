"""Pairs of a better and a worse answer to one prompt, from .jsonl files: {"prompt": text or
"messages": [...], "chosen": text, "rejected": text}.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from seekjax.config import Config
from seekjax.data import Corpus, DataError, Source
from seekjax.data.batches import READ_AHEAD, Batches, mix_training
from seekjax.post.samples.chats import (
    Form,
    Rows,
    asked,
    held_out_side,
    messages_of,
    open_rows,
    text_of,
)
from seekjax.post.samples.solutions import file_facts, too_long

SIDES = ("chosen", "rejected")


@dataclass
class Pairs:
    """Some pairs of a file: each {"tokens", "segments", "trained"} [2, sequence + 1], chosen first.
    Rendered when they are asked for.
    """

    rows: Rows
    form: Form
    places: np.ndarray
    window: int
    pad: int

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row = int(self.places[index])
        _, prompt, *answers = pair(self.rows.where(row), self.rows[row], self.form)
        made = {
            "tokens": np.full((2, self.window), self.pad, np.int32),
            "segments": np.zeros((2, self.window), np.int32),
            "trained": np.zeros((2, self.window), bool),
        }
        for side, answer in enumerate(answers):
            length = len(prompt) + len(answer)
            made["tokens"][side, :length] = np.concatenate([prompt, answer])
            made["segments"][side, :length] = 1
            made["trained"][side, len(prompt) : length] = True
        return made


def pair(
    where: str, record: dict[str, Any], form: Form
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """What is asked, and the tokens of prompt, chosen and rejected answer. Raises DataError."""
    if ("prompt" in record) == ("messages" in record):
        raise DataError(f'{where} must have either "prompt" (text) or "messages" (a conversation).')
    messages = (
        messages_of(record["messages"], where)
        if "messages" in record
        else [{"role": "user", "content": text_of(record["prompt"], f"{where}, prompt,")}]
    )
    if messages[-1]["role"] == "assistant":
        raise DataError(
            f"{where} ends with an answer of the assistant: the answers to compare belong "
            "under chosen and rejected."
        )
    said = [text_of(record.get(side), f"{where}, {side},") for side in SIDES]
    if said[0] == said[1]:
        raise DataError(f"{where} prefers an answer to itself: chosen and rejected are the same.")
    try:
        return asked(messages), form.prompt(messages), *map(form.answer, said)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def load_pairs(config: Config, form: Form, pad: int) -> Corpus:
    """The sources of post.pairs, every row read once and checked. Raises DataError."""
    names, window, sources = config.post.pairs, config.data.sequence + 1, []
    if not names or len(set(names)) != len(names):
        raise DataError(
            "there is nothing to learn from: name .jsonl files with --post.pairs."
            if not names
            else f"a file is named twice in {', '.join(names)}."
        )
    for name in names:
        rows, places, keys, long = open_rows(name, "post.pairs"), [], [], 0
        for row, record in enumerate(rows):
            key, prompt, *answers = pair(rows.where(row), record, form)
            length = len(prompt) + max(map(len, answers))
            if length > window and not config.post.drop_long:
                raise too_long(rows.where(row), length, window)
            if length > window:
                long += 1
                continue
            places.append(row)
            keys.append(key)
        if not places:
            raise DataError(
                f"every pair of {name} is longer than data.sequence {window - 1}: make it longer."
            )
        held_out, places = held_out_side(keys, config.data.held_out), np.array(places)
        train, kept = (
            Pairs(rows, form, places[side], window, pad) for side in (~held_out, held_out)
        )
        facts = {**file_facts(rows), "train": len(train), "held_out": len(kept), "too_long": long}
        sources.append(Source(name, 1 / len(names), train, kept, (facts,)))
    return Corpus(tuple(sources))


def pair_batches(
    corpus: Corpus, batch: int, seed: int, made_for: dict, process_index: int, process_count: int
) -> Batches:
    """Endless batches of this process, int32 [batch / process_count, sequence + 1]; the two texts
    of a pair are neighbours. The position is exact.
    """
    own_pairs = mix_training(corpus, seed)[process_index::process_count]
    pairs = own_pairs.to_iter_dataset(READ_AHEAD)
    rows = pairs.batch(batch // process_count // 2).map(
        lambda two: {name: x.reshape(-1, x.shape[-1]) for name, x in two.items()}
    )
    return Batches(
        iter(rows),
        made_for
        | {
            "seed": seed,
            "process": f"{process_index} of {process_count}",
            "corpus": corpus.fingerprint(),
        },
    )
