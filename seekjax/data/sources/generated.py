"""Documents generated on demand: each is a function of its index alone, so any number exists."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seekjax.data.split import Split

Generator = Callable[[random.Random], str]
Filter = Callable[[str], bool]

TRAIN_DOCUMENTS = 1_000_000  # of an epoch
HELD_OUT_DOCUMENTS = 20_000


@dataclass(frozen=True)
class Generated(Sequence[str]):
    """The documents that `generate` makes from a seeded random number generator, by index.

    With `keep`, a document that it rejects is drawn again.
    """

    generate: Generator
    stream: str  # seeds the documents, together with their index
    documents: int  # of an epoch
    keep: Filter | None = None

    def __len__(self) -> int:
        return self.documents

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < self.documents:
            raise IndexError(index)

        attempt = 0
        while True:
            # A string seed goes through SHA-512: equal on every machine and Python version.
            rng = random.Random(f"{self.stream}/{index}/{attempt}")
            text = self.generate(rng)
            if self.keep is None or self.keep(text):
                return text
            attempt += 1


def generated_split(
    name: str,
    generate: Generator,
    keep_train: Filter | None = None,
    keep_held_out: Filter | None = None,
) -> Split:
    """Return training and held-out documents of one generator; the name seeds them."""
    return Split(
        train=Generated(generate, f"{name}/train", TRAIN_DOCUMENTS, keep_train),
        held_out=Generated(generate, f"{name}/held out", HELD_OUT_DOCUMENTS, keep_held_out),
    )
