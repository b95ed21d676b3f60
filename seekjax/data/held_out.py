"""Held-out text to measure a model on: each byte counts once, so a compressor can get the same."""

import lzma
import math
from collections.abc import Sequence

import numpy as np

from seekjax.data.batches import stack
from seekjax.data.corpus import Corpus
from seekjax.data.tokenizer import Tokenizer
from seekjax.errors import DataError, need


def held_out_text(corpus: Corpus, source: str, limit_bytes: int) -> str:
    """Return held-out documents of a source, one after another, up to a number of UTF-8 bytes.

    Raises:
        DataError: the corpus has no such source, or its held-out side is empty.
    """
    documents = corpus.source(source).held_out
    need(
        len(documents),
        f"source {source!r} has no held-out documents; set data.held_out above 0 or give it more "
        "documents.",
        DataError,
    )

    texts = []
    size = 0
    for index in range(len(documents)):
        if size >= limit_bytes:
            break
        texts.append(documents[index].encode())
        size += len(texts[-1])

    # The limit may fall inside a character, which is then left out.
    return b"".join(texts)[:limit_bytes].decode(errors="ignore")


def exact_batches(
    text: str, tokenizer: Tokenizer, sequence: int, batch: int
) -> list[dict[str, np.ndarray]]:
    """Return batches in which every token of the text is a target exactly once.

    Each array is int32 [batch, sequence + 1]. The first token is predicted from the end-of-document
    token before it, and consecutive rows share one token. The last rows are filled with padding,
    segment 0: only targets with a segment above 0 count. `tokenizer.bytes_V` of those targets sums
    to the bytes of the text.
    """
    tokens = np.concatenate([[tokenizer.eos], tokenizer.encode(text)]).astype(np.int32)
    predictions = len(tokens) - 1
    count = max(1, math.ceil(predictions / (sequence * batch)))

    rows = []
    for start in range(0, count * batch * sequence, sequence):
        row = tokens[start : start + sequence + 1]
        # A row that begins with the very last token has nothing to predict and stays empty.
        if start >= predictions:
            row = row[:0]
        rows.append(padded_row(row, sequence + 1, tokenizer.pad))

    return [stack(rows[start : start + batch]) for start in range(0, len(rows), batch)]


def padded_row(
    tokens: Sequence[int] | np.ndarray,
    window: int,
    pad: int,
) -> dict[str, np.ndarray]:
    """Return one row of `window` positions: the tokens as segment 1, then padding as segment 0."""
    padding = (0, window - len(tokens))
    return {
        "tokens": np.pad(np.array(tokens, np.int32), padding, constant_values=pad),
        "segments": np.pad(np.ones(len(tokens), np.int32), padding),
    }


def xz_bits_per_byte(text: str) -> float:
    """Return the size of the text under `xz -6`, in bits per byte of the text."""
    data = text.encode()
    return 8 * len(lzma.compress(data, preset=6)) / len(data)
