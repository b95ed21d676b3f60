"""The shapes that the engine's programs are compiled for: few, and the limits among them."""

from typing import NamedTuple

from seekjax.generate.engine.settings import EngineSettings
from sharding.rules import split_by

GROW = 4  # from one size to the next
FEWEST_SPANS = 4096  # attention stops at the last token, so a longer cache costs its copy alone
SMALL_CHUNK = 64


class Buckets(NamedTuple):
    """The sizes of each kind, from the smallest up."""

    rows: tuple[int, ...]  # requests of a decoding call
    slots: tuple[int, ...]  # positions of the cache, whole pages
    chunks: tuple[int, ...]  # prompt tokens that are read at once, whole pages
    spans: tuple[int, ...]  # positions of the cache that a chunk is read over, whole pages


def make_buckets(settings: EngineSettings, context: int) -> Buckets:
    """Return sizes up to max_batch, the context and the chunk, each rounded up.

    Rows are rounded to what the mesh splits a batch into, the others to whole pages.
    """
    split = split_by("batch")
    page = settings.page_size
    rows = growing(split, round_up(settings.max_batch, split))

    # while requests come and go a batch is often half full, and its steps take half the time
    half = round_up(-(-rows[-1] // 2), split)
    rows = tuple(sorted({*rows, half}))

    last = round_up(context, page)
    slots = growing(round_up(settings.slots, page), last)
    spans = growing(round_up(FEWEST_SPANS, page), last)

    largest = min(round_up(settings.chunk, page), slots[-1])
    smallest = min(round_up(SMALL_CHUNK, page), largest)
    return Buckets(rows, slots, tuple(sorted({smallest, largest})), spans)


def round_up(size: int, multiple: int) -> int:
    """Return the smallest multiple that is not below the size."""
    return -(-size // multiple) * multiple


def growing(first: int, last: int) -> tuple[int, ...]:
    """Return first, first * GROW, ... below `last`, and `last`."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= GROW
    return (*sizes, last)


def bucket_of(sizes: tuple[int, ...], need: int) -> int:
    """Return the smallest size that is not below the need, or the largest of all."""
    for size in sizes:
        if size >= need:
            return size
    return sizes[-1]
