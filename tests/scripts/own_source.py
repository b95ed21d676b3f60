"""Data sources of a user's own, named `tests.scripts.own_source:NAME` in data.sources."""

import random
from collections.abc import Sequence

from seekjax.data import Split
from seekjax.data.split import is_held_out


def proverbs(config):
    """A source of two shards, which the corpus splits by hash."""
    first = [f"Proverb {index}: look before you leap.\n" for index in range(40)]
    second = [f"Proverb {index}: still waters run deep.\n" for index in range(30)]
    return [first, second]


class Countdowns(Sequence):
    """Documents by index, on one side of the split."""

    def __init__(self, held_out: bool, share: float, documents: int):
        self.held_out = held_out
        self.share = share
        self.documents = documents

    def __len__(self):
        return self.documents

    def __getitem__(self, index):
        if not 0 <= index < self.documents:
            raise IndexError(index)

        # Draw again until the hash of the text is on this side.
        rng = random.Random(f"countdowns/{self.held_out}/{index}")
        while True:
            start = rng.randrange(10_000)
            text = f"{start}, {start - 1}, {start - 2}, lift off!\n"
            if is_held_out(text, self.share) == self.held_out:
                return text


class Rockets(Split):
    """A source that is a class, and keeps its two sides apart itself."""

    def __init__(self, config):
        share = config.held_out or 0.1
        super().__init__(train=Countdowns(False, share, 500), held_out=Countdowns(True, share, 50))


def unsharded(config):
    """Forgets the list around its documents."""
    return ["a document", "another document"]


def nothing(config):
    return []


def bytes_for_text(config):
    return [[b"not a text"]]


def fails(config):
    raise KeyError("an index of documents")
