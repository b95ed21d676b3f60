"""A chunk of a prompt as a device program takes it. NumPy alone."""

from typing import NamedTuple

import numpy as np

from seekjax.generate.engine.buckets import Buckets, bucket_of
from seekjax.generate.engine.pages import PADDING
from seekjax.generate.engine.schedule import Job


class Chunk(NamedTuple):
    """The next part of a job's prompt."""

    program: tuple  # its name and sizes
    arguments: tuple  # after the pools
    start: int  # position of the first token
    count: int  # tokens, without padding
    again: int  # of these, tokens at the beginning that were in the cache already


def next_chunk(
    job: Job,
    buckets: Buckets,
    page_size: int,
) -> Chunk:
    """Return what a job reads next: as much as a bucket holds, all tokens but the last at most.

    Near the end of the cache a chunk begins earlier and reads tokens again that are already there;
    their pages are not written.
    """
    name = "read"
    size = bucket_of(buckets.chunks, job.unread)
    if job.must_score:
        name = "score"
        size = buckets.chunks[-1]
    start = min(job.read, buckets.spans[-1] - size)
    count = min(size, len(job.tokens) - 1 - start)
    span = bucket_of(buckets.spans, start + size)

    # the tokens and the one after them
    tokens_1X = np.zeros((1, size + 1), np.int32)
    tokens = job.tokens[start : start + size + 1]
    tokens_1X[0, : len(tokens)] = tokens

    # pages that are new are written
    first = start // page_size
    pages = page_table(job, span // page_size)
    written_1J = np.full((1, size // page_size), PADDING, np.int32)
    new = job.pages[job.read // page_size : first + size // page_size]
    offset = job.read // page_size - first
    written_1J[0, offset : offset + len(new)] = new

    arguments = (tokens_1X, np.int32(count), np.int32(start), pages, written_1J)
    return Chunk((name, size, span), arguments, start, count, job.read - start)


def page_table(job: Job, pages: int) -> np.ndarray:
    """Return this many pages of a job in order, padded where it has fewer."""
    pages_N = np.full(pages, PADDING, np.int32)
    held = job.pages[:pages]
    pages_N[: len(held)] = held
    return pages_N
