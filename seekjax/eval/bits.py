"""Bits per byte and perplexity of a text: the same on any mesh, with any batch size, and after an
interruption.

Documents follow one another, each begun by the token that begins a text. Every token of a document
is a target once; the beginning token never is. Rows of `sequence` targets overlap by one token, and
a row has no context before its first token.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seekjax.data import DataError
from seekjax.model.transformer import Transformer
from seekjax.storage import write_atomically
from seekjax.train.loss import cross_entropy
from sharding.place import put_batch
from sharding.rules import split_by

Row = tuple[np.ndarray, np.ndarray]  # int32 tokens [T + 1], bool mask [T] of the targets that count


@dataclass
class Totals:
    """Totals of the rows measured so far."""

    rows: int = 0
    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0

    @property
    def bits_per_byte(self) -> float:
        """Comparable among models with different tokenizers."""
        return self.nats / np.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """Per token, so it depends on the tokenizer."""
        return float(np.exp(self.nats / self.tokens))


def pack_rows(
    documents: Iterable[np.ndarray],
    begin: int,
    sequence: int,
) -> Iterator[Row]:
    """Yield documents of tokens as rows; the last is padded with targets that do not count."""
    tokens, mask = np.zeros(0, np.int32), np.zeros(0, bool)
    for document in documents:
        tokens = np.concatenate([tokens, [begin], document]).astype(np.int32)
        mask = np.concatenate([mask, [False], np.ones(len(document), bool)])

        # the last token of a row is the first of the next
        while len(tokens) > sequence:
            yield tokens[: sequence + 1], mask[1 : sequence + 1]
            tokens, mask = tokens[sequence:], mask[sequence:]

    if mask[1:].any():
        missing = sequence + 1 - len(tokens)
        yield np.pad(tokens, (0, missing)), np.pad(mask[1:], (0, missing))


@partial(jax.jit, static_argnums=0)
def summed_nats(
    model: Transformer, variables: dict, tokens_BX: jax.Array, mask_BT: jax.Array
) -> jax.Array:
    """Return the sum of -log p of the targets that count."""
    output: Any = model.apply(variables, tokens_BX[:, :-1])
    return cross_entropy(
        output.hidden_BTD, output.head_DV, tokens_BX[:, 1:], mask_BT, model.kernel.vocab_chunk
    )


def measure(
    model: Transformer,
    variables: dict,
    rows: Iterable[Row],
    bytes_V: np.ndarray,
    batch: int,
    totals: Totals = Totals(),
) -> Iterator[Totals]:
    """Yield the totals after each batch, from `totals` on; the rows that it counts are skipped.

    bytes_V: the bytes of each token's text. `batch` is rounded up to the batch axis of the mesh.
    """
    split = split_by("batch")
    batch = -(-batch // split) * split
    remaining = islice(iter(rows), totals.rows, None)

    for group in _batched(remaining, batch):
        tokens_BX = np.stack([tokens for tokens, _ in group])
        mask_BT = np.stack([mask for _, mask in group])
        nats = summed_nats(model, variables, *_place(batch, tokens_BX, mask_BT))

        targets = tokens_BX[:, 1:][mask_BT]
        totals = Totals(
            rows=totals.rows + len(group),
            nats=totals.nats + float(nats),
            tokens=totals.tokens + len(targets),
            bytes=totals.bytes + int(bytes_V[targets].sum()),
        )
        yield totals


def _batched(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Yield `size` rows at a time, fewer at the end."""
    while group := list(islice(rows, size)):
        yield group


def _place(batch: int, *arrays: np.ndarray) -> list[jax.Array]:
    """Pad arrays to `batch` rows and split them over the mesh."""
    placed = []
    for array in arrays:
        padded = np.pad(array, ((0, batch - len(array)), (0, 0)))
        placed.append(put_batch({"x": padded}, "batch")["x"])
    return placed


class ProgressFile:
    """A file that records how far an evaluation has come, and what it depends on."""

    def __init__(self, path: Path, key: dict):
        self.path = path
        self.key = key
        self.writable = True

    def load(self) -> tuple[Totals, bool]:
        """Return the totals so far and whether they are final; zeros for another key.

        Raises DataError if the file holds something else.
        """
        try:
            record = json.loads(self.path.read_text())
            if record["made_for"] == self.key:
                return Totals(**record["sums"]), record["done"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(
                f"{self.path} is not the progress of an evaluation: delete it or name another file "
                "with --progress."
            ) from error
        return Totals(), False

    def save(self, totals: Totals, done: bool) -> None:
        """Replace the file atomically; where it cannot be written, say so once and go on."""
        record = {"made_for": self.key, "sums": asdict(totals), "done": done}
        try:
            write_atomically(self.path, json.dumps(record, indent=1) + "\n")
        except OSError as error:
            if self.writable:
                print(
                    f"note: {self.path} cannot be written ({error.strerror}): an interrupted "
                    "evaluation would begin again. Name another file with --progress.",
                    file=sys.stderr,
                    flush=True,
                )
            self.writable = False
