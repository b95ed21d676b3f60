"""Documents made on demand: as many as one likes, each a function of its index alone."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True)
class Generated:
    """The documents that `generate` writes from a random number generator, by index.

    `keep` confines them to the texts it accepts; a rejected text is drawn again. Training and
    held-out documents of one generator differ by `stream`.
    """

    generate: Callable[[random.Random], str]
    stream: str  # seeds the documents, together with their index
    documents: int  # how many make an epoch
    keep: Callable[[str], bool] | None = None

    def __len__(self) -> int:
        return self.documents

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < self.documents:
            raise IndexError(index)  # which also ends a `for` loop
        for attempt in count():
            # A string seed goes through SHA-512: equal on every machine and Python version.
            text = self.generate(random.Random(f"{self.stream}/{index}/{attempt}"))
            if self.keep is None or self.keep(text):
                return text
