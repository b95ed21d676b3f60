"""Text to learn copying from: Python's standard library with lines planted in it.

    run() {
        python train.py tiny --out runs/needle/$1 --data.sources tests.benchmarks.planted:$2 "${@:3}"
    }
    phase() {
        run $1 keys --init runs/needle/$2 --data.sequence $3 --extend.context $3 --train.batch $4 \
            --extend.original-context 256 --extend.factor 20 --optimizer.learning-rate 3e-4 \
            --optimizer.warmup 0 --optimizer.schedule 1:1 --train.steps 60
    }
    run text keys --train.steps 620
    run base dense_keys --init runs/needle/text --train.steps 1000
    phase 1k base 1024 4
    phase 4k 1k 4096 1
    python -m tests.benchmarks.long_context runs/needle needle

Each text has a word of random syllables in lines `session_key = "..."`, again and again, so that
all but the first can be read off an earlier one. `base` learns that at 256 tokens; the phases are
those of configs/tiny_long.py. What comes of it is in tests/benchmarks/results/needle.md.
"""

import math
import random
from collections.abc import Sequence

from seekjax.config import DataConfig
from seekjax.data.sources import stdlib

SYLLABLES = ("to", "ve", "mi", "ra", "zu", "ka", "le", "po", "si", "nu")
LINE = '\nsession_key = "'
GAPS = (40, 8000)  # characters between two lines, evenly in their logarithm
DENSE = (10, 150)
LIVES = 8  # lines with the same word, then comes another


def draw_word(chosen: random.Random) -> str:
    """Return five syllables: log2(10^5) = 16.6 bits."""
    return "".join(chosen.choices(SYLLABLES, k=5))


class Planted(Sequence[str]):
    """The documents of a shard with lines in them."""

    def __init__(self, documents: Sequence[str], first: int, gaps: tuple[int, int]):
        self._documents = documents
        self._gaps = gaps
        self._first = first  # number of the first document, which seeds its words

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index):
        text = self._documents[index]
        chosen = random.Random(self._first + index)
        parts, begin, lines = [], 0, 0
        while begin < len(text):
            gap = math.exp(chosen.uniform(*map(math.log, self._gaps)))
            end = text.find("\n", begin + round(gap))
            end = len(text) if end < 0 else end
            if lines % LIVES == 0:
                value = draw_word(chosen)
            parts += [text[begin:end], f'{LINE}{value}"']
            begin, lines = end, lines + 1
        return "".join(parts)


def keys(config: DataConfig) -> list[Planted]:
    """Return the standard library with lines planted; a source of its own for --data.sources."""
    return planted(config, GAPS)


def dense_keys(config: DataConfig) -> list[Planted]:
    """Return the same with many lines, for a model that has yet to learn copying."""
    return planted(config, DENSE)


def planted(config: DataConfig, gaps: tuple[int, int]) -> list[Planted]:
    """Return the standard library with lines planted at these distances."""
    shards, first = [], 0
    for shard in stdlib.load(config):
        shards.append(Planted(shard, first, gaps))
        first += len(shard)
    return shards
