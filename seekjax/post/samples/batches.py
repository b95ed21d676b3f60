"""Batches of samples: the training batches of a run, and its held-out rows."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from seekjax.config import Config
from seekjax.config.post import ChatConfig
from seekjax.data import Corpus, load_tokenizer
from seekjax.data.batches import Batches, sample_batches
from seekjax.data.chat import load_trained_chat
from seekjax.data.streams import ProcessBatches
from seekjax.post.samples.corpus import Row, pack_rows
from seekjax.post.samples.template import ChatFormat
from seekjax.train.source import own_rows, process_share, stack_batches

HeldOut = dict[str, list[Row]]  # batches [B, T + 1] of each source


def load_format(config: Config, home: Path | None, settings: ChatConfig) -> ChatFormat:
    """Return tokenizer and chat format of the model in the folder `home`. Raises DataError."""
    tokenizer = load_tokenizer(config.data, config.model.vocab, None)
    chat, tokenizer = load_trained_chat(
        home.expanduser() if home else None,
        config.out,
        tokenizer,
        settings.template,
        settings.template_settings,
    )
    return ChatFormat(chat, tokenizer)


def training_batches(
    config: Config, corpus: Corpus, chat_format: ChatFormat, language: str
) -> ProcessBatches:
    """Return endless micro-batches of packed samples, of this process."""

    def open_stream(number: int, count: int) -> Batches:
        return sample_batches(
            corpus,
            {"tokens": chat_format.tokenizer.pad, "trained": 0},
            sequence=config.data.sequence,
            batch=config.train.rows,
            seed=config.train.seed,
            fingerprint={
                "tokenizer": chat_format.tokenizer.fingerprint(),
                "template": chat_format.fingerprint(),
                "language": language,
            },
            process_index=number,
            process_count=count,
        )

    return ProcessBatches(open_stream, config.train.rows, **process_share())


def held_out_samples(config: Config, corpus: Corpus, pad: int) -> HeldOut:
    """Return the held-out samples of each source in batches, of this process's rows."""
    rows = config.train.rows

    def pack(samples: Sequence[Row]) -> list[Row]:
        return pack_rows(samples, config.train.eval_rows, config.data.sequence + 1, pad)

    return held_out_batches(corpus, pack, rows, pad)


def held_out_batches(
    corpus: Corpus, rows_of: Callable[[Sequence[Row]], list[Row]], size: int, pad: int
) -> HeldOut:
    """Return batches of `size` rows for each source with a held-out side.

    rows_of makes the rows; the last batch is filled up with empty ones. Of each batch this process
    keeps its part.
    """
    held_out = {}
    for source in corpus.sources:
        if len(source.held_out):
            rows = rows_of(source.held_out)

            # Fill up the last batch.
            empty = {name: np.zeros_like(x) for name, x in rows[0].items()}
            empty["tokens"] = np.full_like(rows[0]["tokens"], pad)
            rows += [empty] * (-len(rows) % size)

            batches = []
            for first in range(0, len(rows), size):
                batches.append(stack_batches(rows[first : first + size][own_rows(size)]))
            held_out[source.name] = batches
    return held_out
