"""Bits per byte of a text, and perplexity: the same number on any mesh and batch size, and after an
interruption.

Documents follow one another, each begun by the token that begins a text; every token of a document
is a target once, that token never. Rows of `sequence` targets overlap by one token and know nothing
of the row before.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

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
class Sums:
    """What was measured so far."""

    rows: int = 0
    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0

    @property
    def bits_per_byte(self) -> float:
        return self.nats / np.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """Of a token: it depends on the tokenizer, as bits per byte does not."""
        return float(np.exp(self.nats / self.tokens))


def rows_of(documents: Iterable[Sequence[int]], begin: int, sequence: int) -> Iterator[Row]:
    """Documents of tokens as rows; the last is filled up with targets that do not count."""
    tokens, mask = np.zeros(0, np.int32), np.zeros(0, bool)
    for document in documents:
        tokens = np.concatenate([tokens, [begin], document]).astype(np.int32)
        mask = np.concatenate([mask, [False], np.ones(len(document), bool)])
        while len(tokens) > sequence:
            yield tokens[: sequence + 1], mask[1 : sequence + 1]
            tokens, mask = tokens[sequence:], mask[sequence:]
    if mask[1:].any():
        missing = sequence + 1 - len(tokens)
        yield np.pad(tokens, (0, missing)), np.pad(mask[1:], (0, missing))


@partial(jax.jit, static_argnums=0)
def nats(
    model: Transformer, variables: dict, tokens_BX: jax.Array, mask_BT: jax.Array
) -> jax.Array:
    """Summed -log p of the targets that count."""
    output = model.apply(variables, tokens_BX[:, :-1])
    return cross_entropy(
        output.hidden_BTD, output.head_DV, tokens_BX[:, 1:], mask_BT, model.kernel.vocab_chunk
    )


def measure(
    model: Transformer,
    variables: dict,
    rows: Iterable[Row],
    bytes_V: np.ndarray,
    batch: int,
    sums: Sums = Sums(),
) -> Iterator[Sums]:
    """The sums after each batch, from where `sums` stands; rows that it counts already are
    skipped."""
    batch = -(-batch // split_by("batch")) * split_by("batch")
    for group in _batched(islice(iter(rows), sums.rows, None), batch):
        tokens_BX, mask_BT = (np.stack(part) for part in zip(*group))
        empty = ((0, batch - len(group)), (0, 0))
        placed = [
            put_batch({"x": np.pad(part, empty)}, "batch sequence")["x"]
            for part in (tokens_BX, mask_BT)
        ]
        sums = Sums(
            sums.rows + len(group),
            sums.nats + float(nats(model, variables, *placed)),
            sums.tokens + int(mask_BT.sum()),
            sums.bytes + int(bytes_V[tokens_BX[:, 1:]][mask_BT].sum()),
        )
        yield sums


def _batched(rows: Iterator[Row], size: int) -> Iterator[tuple[Row, ...]]:
    while group := tuple(islice(rows, size)):
        yield group


class Progress:
    """A file that remembers how far an evaluation came, and of what."""

    def __init__(self, path: Path, made_for: dict):
        self.path, self.made_for = path, made_for

    def load(self) -> tuple[Sums, bool]:
        """Where to go on, and whether that is the end; from nothing where the file speaks of
        something else."""
        try:
            found = json.loads(self.path.read_text())
            if found["made_for"] == self.made_for:
                return Sums(**found["sums"]), found["done"]
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{self.path} is no progress of an evaluation: delete it or name another "
                "with --progress."
            ) from error
        return Sums(), False

    def save(self, sums: Sums, done: bool) -> None:
        """Replaces the file, whole or not at all."""
        write_atomically(
            self.path,
            json.dumps({"made_for": self.made_for, "sums": asdict(sums), "done": done}, indent=1)
            + "\n",
        )
