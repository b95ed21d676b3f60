"""Data sources: the built-in ones by name, and your own as `module:name`.

A data source is a function (or a class) that is called with the run's DataConfig and returns its
documents in one of two forms:

* **Shards**, a list of sequences of documents, such as files. `load_corpus` reads each document
  once, and the hash of its text puts it on the training or the held-out side.
* **`Split(train, held_out)`**, or an instance of a subclass: two sequences that the source keeps
  apart itself. Use this for generated text without end. `split.is_held_out(text, share)` tells the
  side of a text by its hash.

A sequence of documents has `len(documents)` and `documents[index]`, a str. Three rules make a run
reproducible, and let its data position resume exactly:

1. A document is a function of `config` and its index alone. Seed any random generator with the
   index; use neither the time nor a generator that several documents share.
2. The sequences can be pickled, because worker processes (`data.workers`) receive a copy of them,
   and they can be read from several threads.
3. No text is on both sides.

The corpus fingerprint covers every document of a shard, and the first hundred of each side of a
`Split`. A resumed run refuses its data position if the fingerprint has changed.

A complete source of two documents, which `--data.sources my_module:proverbs` reads:

    def proverbs(config):
        return [["Look before you leap.", "Still waters run deep."]]
"""

from collections.abc import Sequence
from typing import Protocol

from seekjax.config import DataConfig
from seekjax.data.sources import arithmetic, stdlib, stories
from seekjax.data.split import Split
from seekjax.registry import Registry


class DataSource(Protocol):
    """A function of the data settings that returns documents, as this module describes."""

    def __call__(self, config: DataConfig) -> Split | Sequence[Sequence[str]]:
        """Return shards, to be split by hash, or documents that are already split."""
        ...


BUILT_IN: dict[str, DataSource] = {
    "stdlib": stdlib.load,
    "arithmetic": arithmetic.load,
    "stories": stories.load,
}
SOURCES = Registry("data source", BUILT_IN)
