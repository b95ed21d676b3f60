"""What fine-tuning and distillation read: conversations and solved problems, as one corpus."""

from collections.abc import Sequence

import numpy as np

from seekjax.config import DataConfig, SamplesConfig
from seekjax.data import Corpus, DataError
from seekjax.data.corpus import need_distinct
from seekjax.errors import need
from seekjax.post.samples.chats import load_chats
from seekjax.post.samples.solutions import SolutionSettings, load_solutions
from seekjax.post.samples.template import ChatFormat

Row = dict[str, np.ndarray]


def load_samples(
    samples: SamplesConfig,
    data: DataConfig,
    seed: int,
    chat_format: ChatFormat,
    section: str,
    attempts: float = 0.0,
) -> Corpus:
    """Return the sources of samples.chats and samples.tasks, each file's rows read and checked.

    section: of the config, "sft" or "distill", for messages. Raises DataError.
    """
    names = [*samples.chats, *samples.tasks]
    need(
        names,
        f"there is nothing to learn from: name .jsonl files with --{section}.chats, or tasks with "
        f"--{section}.tasks.",
        DataError,
    )
    need_distinct(names, f"--{section}", f"use {section}.weights to give one more weight.")
    weights = samples.weights or (1.0,) * len(names)
    need(
        len(weights) == len(names) and min(weights) > 0,
        f"{section}.weights is {weights}: give a positive number for each of {', '.join(names)}, "
        "or none.",
        DataError,
    )

    share = {name: weight / sum(weights) for name, weight in zip(names, weights)}
    sources = []
    for name in samples.chats:
        source = load_chats(
            name,
            share[name],
            chat_format,
            data.sequence,
            data.held_out,
            samples.drop_long,
            section,
        )
        sources.append(source)
    settings = SolutionSettings(
        chat_format, samples.language, data.sequence, samples.drop_long, attempts, section
    )
    for name in samples.tasks:
        sources.append(load_solutions(name, share[name], settings, seed))
    return Corpus(tuple(sources))


def pack_rows(samples: Sequence[Row], rows: int, window: int, pad: int) -> list[Row]:
    """Return up to `rows` rows of whole samples, the same ones every time.

    Samples come in a fixed random order, each in the first row with room.
    """
    packed: list[list[Row]] = []
    for index in np.random.default_rng(0).permutation(len(samples)):
        sample = samples[int(index)]
        row = _first_with_room(packed, window - len(sample["tokens"]))
        if row is not None:
            row.append(sample)
        elif len(packed) < rows:
            packed.append([sample])
        else:
            break
    return [_join(row, window, pad) for row in packed]


def _first_with_room(packed: list[list[Row]], most: int) -> list[Row] | None:
    """Return the first row with at most this many tokens."""
    for row in packed:
        lengths = [len(sample["tokens"]) for sample in row]
        if sum(lengths) <= most:
            return row
    return None


def _join(samples: Sequence[Row], window: int, pad: int) -> Row:
    """Return samples one after the other as {"tokens", "trained", "segments"} [window]."""
    row = {
        "tokens": np.full(window, pad, np.int32),
        "trained": np.zeros(window, bool),
        "segments": np.zeros(window, np.int32),
    }
    start = 0
    for number, sample in enumerate(samples, 1):
        span = slice(start, start + len(sample["tokens"]))
        row["tokens"][span] = sample["tokens"]
        row["trained"][span] = sample["trained"]
        row["segments"][span] = number
        start = span.stop
    return row
