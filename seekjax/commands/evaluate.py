"""`seekjax eval MODEL --data PATH`, `--task NAME` or `--lm-eval NAME`."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seekjax.commands.common import keep_compiled
from seekjax.commands.lm_eval import prepare, report_harness
from seekjax.commands.replicas import add_replicas
from seekjax.commands.settings import Eval
from seekjax.config import DataConfig
from seekjax.config.values import check_values
from seekjax.console import progress
from seekjax.data import Corpus, DataError, Tokenizer, load_corpus
from seekjax.data.corpus import is_named
from seekjax.errors import need
from seekjax.eval.bits import ProgressFile, Totals, measure, pack_rows
from seekjax.eval.report import evaluate_tasks, print_and_write, report_path
from seekjax.model.transformer import Transformer
from seekjax.open import (
    OpenedModel,
    need_tokenizer,
    on_mesh,
    open_model,
    weights_fingerprint,
)

SAVE_EVERY = 10.0  # seconds
ROWS = 8  # rows of text at a time, by default
DOCUMENTS = 1000  # of a built-in source, by default


def evaluate(options: Eval) -> None:
    """Run the command; cli.exit_status prints the sentence of what it raises."""
    check_values(options.questions)
    check_values(options)
    given = [options.data, options.questions.task, options.harness.lm_eval]
    need(
        sum(map(bool, given)) == 1,
        "name one of --data, for the bits per byte of a text, --task, for problems as "
        "countdown:1, and --lm-eval, for tasks of lm-eval.",
    )
    if options.harness.lm_eval:
        prepare(options.harness)
    keep_compiled()
    with on_mesh(options.mesh):
        if options.harness.lm_eval:
            report_harness(options)
        elif options.questions.task:
            report_tasks(options)
        else:
            report_bits(options)


def report_tasks(options: Eval) -> None:
    """Evaluate tasks; print and write the report."""
    questions = options.questions
    opened = open_model(options.folder, trust=options.trust, base=options.base)
    opened = add_replicas(opened, options.replicas)
    figures, rate = evaluate_tasks(opened, questions, options.batch)
    path = options.report or report_path(opened.folder, questions.task)
    print_and_write(questions, figures, rate, path)


def report_bits(options: Eval) -> None:
    """Measure bits per byte and print them.

    Raises DataError for a text of no bytes.
    """
    totals, seconds = evaluate_text(options)
    need(totals.bytes, f"{options.data} holds no text to measure.", DataError)
    speed = f"; {totals.tokens / seconds:,.0f} tokens/s" if seconds else "; measured before"
    print(
        f"{options.data}: {totals.bytes:,} bytes, {totals.bits_per_byte:.4f} bits/byte, "
        f"perplexity {totals.perplexity:.3f} per token{speed}"
    )


def evaluate_text(options: Eval) -> tuple[Totals, float]:
    """Return the totals of a text, and the seconds that all of it takes at this run's speed.

    The seconds are 0 if an earlier run had finished.
    """
    opened = open_model(options.folder, trust=options.trust, base=options.base)
    opened = add_replicas(opened, options.replicas)
    tokenizer = need_tokenizer(opened)
    held_out = 0.05 if is_named(options.data) else 0.0
    corpus = load_corpus(
        DataConfig(sources=(options.data,), text_field=options.text_field, held_out=held_out)
    )
    for note in corpus.left_out():
        print(note, flush=True)
    documents, count = select_documents(corpus, options)

    # resume where an earlier run of the same command stopped
    default_path = opened.folder / f"eval-{Path(options.data).stem}.json"
    cache_key = progress_key(opened, corpus, tokenizer, count, options)
    record = ProgressFile(options.progress or default_path, cache_key)
    totals, done = record.load()
    if done:
        return totals, 0.0

    model = Transformer(opened.model, replace(opened.kernel, remat="none", capacity=0.0))
    encoded = Encoded(documents, count, tokenizer)
    rows = pack_rows(encoded, opened.begin, options.sequence)
    batch = options.batch or ROWS

    began = saved = time.perf_counter()
    before = totals.tokens
    batches = measure(model, opened.variables, rows, tokenizer.bytes_V, batch, totals)
    with progress(options.data) as show:
        for totals in batches:
            show(encoded.share(totals.tokens), f"{totals.bits_per_byte:.4f} bits/byte")
            if time.perf_counter() - saved > SAVE_EVERY:
                record.save(totals, False)
                saved = time.perf_counter()
    record.save(totals, True)

    seconds = time.perf_counter() - began
    return totals, seconds * totals.tokens / max(1, totals.tokens - before)


class Encoded:
    """Documents as ids, one by one, and how much of them has been measured."""

    def __init__(self, documents: Sequence[str], count: int, tokenizer: Tokenizer):
        self._documents = documents
        self._count = count
        self._tokenizer = tokenizer
        self._begun = 0  # documents
        self._tokens = 0  # of these
        self._last = 1  # tokens of the last of these

    def __iter__(self) -> Iterator[np.ndarray]:
        for index in range(self._count):
            ids = self._tokenizer.encode(self._documents[index])
            self._begun += 1
            self._tokens += len(ids)
            self._last = max(1, len(ids))
            yield ids

    def share(self, measured: int) -> float:
        """Return the share of the documents that these measured tokens are, from 0 to 1."""
        waiting = min(1.0, (self._tokens - measured) / self._last)  # of the last document
        return (self._begun - waiting) / max(1, self._count)


def progress_key(
    opened: OpenedModel, corpus: Corpus, tokenizer: Tokenizer, documents: int, options: Eval
) -> dict[str, Any]:
    """Return everything that the totals depend on."""
    return {
        "weights": weights_fingerprint(opened.folder),
        "dtype": opened.kernel.dtype,
        "corpus": corpus.fingerprint(),
        "documents": documents,
        "tokenizer": tokenizer.fingerprint(),
        "begin": opened.begin,
        "sequence": options.sequence,
    }


def select_documents(corpus: Corpus, options: Eval) -> tuple[Sequence[str], int]:
    """Return the documents to choose from, and how many of the first to measure.

    They are the held-out documents of a built-in source, and all of a file.
    """
    [source] = corpus.sources
    if is_named(options.data):
        documents = source.held_out
        limit = options.documents or DOCUMENTS
    else:
        documents = source.train
        limit = options.documents or len(documents)
    return documents, min(limit, len(documents))
