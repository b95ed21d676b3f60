"""Batches from an endless, resumable iterator, as a source of the loop."""

from collections.abc import Sequence
from typing import Any, Protocol, TypedDict

import jax
import numpy as np

from seekjax.config import Config
from seekjax.train.schedule import batch_at
from seekjax.train.state import TrainState
from seekjax.train.step import BATCH
from sharding.place import put_batch


class Share(TypedDict):
    """Which of several processes this is."""

    process_index: int
    process_count: int


def process_share() -> Share:
    """Return the share of this process in what all processes read."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def own_rows(rows: int) -> slice:
    """Return the rows of a batch of `rows` that this process holds."""
    own = rows // jax.process_count()
    return slice(own * jax.process_index(), own * (jax.process_index() + 1))


def stack_batches(batches: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return micro-batches as one batch with a leading axis."""
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


class ResumableBatches(Protocol):
    """An endless iterator over one process's micro-batches that can be saved and resumed."""

    def __next__(self) -> dict[str, np.ndarray]:
        """Return the next micro-batch."""
        ...

    def get_state(self) -> Any:
        """Return the JSON-serialisable position."""
        ...

    def set_state(self, state: Any) -> None:
        """Go on from a position."""
        ...


class BatchSource:
    """The micro-batches of each step, on the devices."""

    def __init__(self, config: Config, batches: ResumableBatches):
        self.config = config
        self.batches = batches

    def batch(self, step: int, state: TrainState) -> dict[str, jax.Array]:
        """Return the batch of a step, [A, B, T + 1]; its size follows the schedule of batches."""
        train = self.config.train
        count = batch_at(train, step) // train.rows
        micro_batches = [next(self.batches) for _ in range(count)]
        return put_batch(stack_batches(micro_batches), BATCH)

    def tokens(self, step: int) -> int:
        """Return the tokens of a step."""
        return batch_at(self.config.train, step) * self.config.data.sequence

    def get_state(self) -> Any:
        """Return the position in the data."""
        return self.batches.get_state()

    def set_state(self, position: Any) -> None:
        """Go on from a position in the data."""
        self.batches.set_state(position)
