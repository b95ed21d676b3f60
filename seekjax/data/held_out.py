"""Measuring a model on a given text: every byte counts once, so that a compressor can be given the
very same bytes."""

import lzma
import math
from collections.abc import Sequence

import numpy as np

from seekjax.data.batches import stack
from seekjax.data.corpus import Corpus
from seekjax.data.tokenizer import Tokenizer
from seekjax.errors import DataError


def held_out_text(corpus: Corpus, source: str, limit_bytes: int) -> str:
    """Held-out documents of a source, one after another, up to a number of UTF-8 bytes.

    Raises:
        DataError: there is no such source, or nothing is held out.
    """
    documents, text, size = corpus.source(source).held_out, [], 0
    if not len(documents):
        raise DataError(
            f"source {source!r} has no held-out documents; set data.held_out above 0 or "
            "give it more documents."
        )
    for index in range(len(documents)):
        if size >= limit_bytes:
            break
        text.append(documents[index])
        size += len(text[-1].encode())
    return (
        "".join(text).encode()[:limit_bytes].decode(errors="ignore")
    )  # a character cut in two is left out


def exact_batches(
    text: str, tokenizer: Tokenizer, sequence: int, batch: int
) -> list[dict[str, np.ndarray]]:
    """Batches, int32 [batch, sequence + 1], in which every token of the text is a target exactly
    once.

    The first is predicted from the end-of-document token before it. Rows overlap by one token; the
    last ones are filled with padding, segment 0: only targets with a segment above 0 count.
    `tokenizer.bytes_V` of those targets sums to the bytes of the text.
    """
    tokens = np.concatenate([[tokenizer.eos], tokenizer.encode(text)]).astype(np.int32)
    count = max(1, math.ceil((len(tokens) - 1) / (sequence * batch))) * batch
    # A row that only the shared token reaches has nothing to predict and stays empty.
    rows = [
        tokens[start : start + sequence + 1] if start < len(tokens) - 1 else []
        for start in range(0, count * sequence, sequence)
    ]
    return [
        stack([_padded(row, sequence + 1, tokenizer.pad) for row in rows[start : start + batch]])
        for start in range(0, count, batch)
    ]


def document_batches(
    texts: Sequence[str], tokenizer: Tokenizer, sequence: int, batch: int
) -> list[dict[str, np.ndarray]]:
    """Batches, int32 [batch, sequence + 1], of whole documents: no row begins in the middle of one.

    Every token of every document, and the end-of-document after it, is a target (with a segment
    above 0) exactly once. So the summed loss can be held against the documents' own probability:
    for stories, against -sum(stories.log_prob(text)), which no model is expected to beat. Rows of
    `eval_batches` begin anywhere, and what was cut off costs a model a little more than the
    entropy.

    Raises:
        DataError: a document is longer than `sequence`, its end included.
    """
    rows = []
    for text in texts:
        tokens = [*tokenizer.encode(text), tokenizer.eos]
        if len(tokens) > sequence:
            raise DataError(
                f"a document has {len(tokens)} tokens but data.sequence={sequence}; set "
                f"data.sequence to at least {len(tokens)}."
            )
        if not rows or len(rows[-1]) + len(tokens) > sequence + 1:
            rows.append([tokenizer.eos])
        rows[-1] += tokens
    rows += [[] for _ in range(-len(rows) % batch)]
    return [
        stack([_padded(row, sequence + 1, tokenizer.pad) for row in rows[start : start + batch]])
        for start in range(0, len(rows), batch)
    ]


def _padded(tokens: Sequence[int], window: int, pad: int) -> dict[str, np.ndarray]:
    """One row: its tokens in segment 1, then padding in segment 0."""
    padding = (0, window - len(tokens))
    return {
        "tokens": np.pad(np.array(tokens, np.int32), padding, constant_values=pad),
        "segments": np.pad(np.ones(len(tokens), np.int32), padding),
    }


def xz_bits_per_byte(text: str) -> float:
    """What `xz -6` needs, in bits per byte of the text."""
    data = text.encode()
    return 8 * len(lzma.compress(data, preset=6)) / len(data)
