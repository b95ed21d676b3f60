"""Measuring a model on a given text: every byte counts once, so that a compressor can be given the very same bytes."""

import lzma
import math

import numpy as np

from .corpus import Corpus
from .errors import DataError
from .pipeline import stack
from .tokenizer import Tokenizer


def held_out_text(corpus: Corpus, source: str, limit_bytes: int) -> str:
    """Held-out documents of a source, one after another, up to a number of UTF-8 bytes.

    Raises:
        DataError: there is no such source, or nothing is held out.
    """
    documents, text, size = corpus.source(source).held_out, [], 0
    if not len(documents):
        raise DataError(f"source {source!r} has no held-out documents; set data.held_out above 0 or give it more documents.")
    for index in range(len(documents)):
        if size >= limit_bytes:
            break
        text.append(documents[index])
        size += len(text[-1].encode())
    return "".join(text).encode()[:limit_bytes].decode(errors="ignore")  # a character cut in two is left out


def exact_batches(text: str, tokenizer: Tokenizer, sequence: int, batch: int) -> list[dict[str, np.ndarray]]:
    """Batches, int32 [batch, sequence + 1], in which every token of the text is a target exactly once.

    The first is predicted from the end-of-document token before it. Rows overlap by one token; the last ones are filled with padding, segment 0:
    only targets with a segment above 0 count. `tokenizer.bytes_V` of those targets sums to the bytes of the text.
    """
    tokens = np.concatenate([[tokenizer.eos], tokenizer.encode(text)]).astype(np.int32)
    count = max(1, math.ceil((len(tokens) - 1) / (sequence * batch))) * batch
    padded = np.pad(tokens, (0, count * sequence + 1 - len(tokens)), constant_values=tokenizer.pad)
    real = (np.arange(len(padded)) < len(tokens)).astype(np.int32)
    rows = [{"tokens": padded[start:start + sequence + 1], "segments": real[start:start + sequence + 1]}
            for start in range(0, count * sequence, sequence)]
    return [stack(rows[start:start + batch]) for start in range(0, count, batch)]


def xz_bits_per_byte(text: str) -> float:
    """What `xz -6` needs, in bits per byte of the text."""
    data = text.encode()
    return 8 * len(lzma.compress(data, preset=6)) / len(data)
