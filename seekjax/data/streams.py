"""The rows of one process, however many processes a run has had before.

A run divides its documents among as many streams as it first has processes, and each stream fills
the same rows of every batch from then on. With another number of processes the same streams go on:
a process reads those that its rows lie in. So the batches of a run are the same batches whatever
processes read them, and nothing is read twice or left out.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from seekjax.data.batches import Batches
from seekjax.errors import DataError, need

OpenStream = Callable[[int, int], Batches]  # stream number i of n


class ProcessBatches:
    """An endless iterator over one process's rows of each batch, whose position can be saved."""

    def __init__(self, open_stream: OpenStream, rows: int, process_index: int, process_count: int):
        """rows: of a batch, of all processes. Raises DataError if they cannot be divided."""
        self.open_stream = open_stream
        self.rows = rows
        self.process_index = process_index
        self.process_count = process_count
        self.streams: dict[int, Batches] = {}
        self.slices: dict[int, slice] = {}  # rows that are taken of each stream
        self._open(process_count)

    def __iter__(self) -> "ProcessBatches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        pieces = []
        for number, stream in self.streams.items():
            batch = next(stream)
            pieces.append({name: x[self.slices[number]] for name, x in batch.items()})
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def get_state(self) -> dict[str, Any]:
        """Return the position of the streams that this process reads, JSON-serialisable."""
        positions = [stream.get_state() for stream in self.streams.values()]
        return positions[0] if len(positions) == 1 else {"streams": positions}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved position, or from those of all processes, {"processes": [...]}.

        Raises DataError if it was saved with other data or settings, or is not complete.
        """
        positions = {}
        counts = {self.process_count}
        for saved in state.get("processes", [state]):
            for position in saved.get("streams", [saved]):
                number, _, count = position["made_for"]["process"].partition(" of ")
                positions[int(number)] = position
                counts = {int(count)}

        [count] = counts
        if count != self.count:
            self._open(count)
        for number, stream in self.streams.items():
            need(
                number in positions,
                f"the saved data position lacks stream {number} of {count}: restore the "
                "data-*.json files of the checkpoint, or start a new run from the weights.",
                DataError,
            )
            stream.set_state(positions[number])

    def _open(self, count: int) -> None:
        """Open those of `count` streams that this process's rows lie in."""
        need(
            self.rows % count == 0,
            f"this run divides its data among {count} streams, and {self.rows} rows at a time "
            f"cannot be: make train.batch and train.micro_batch multiples of {count}.",
            DataError,
        )
        self.close()
        self.count = count
        own, of_stream = self.rows // self.process_count, self.rows // count
        first = self.process_index * own
        for number in range(first // of_stream, -(-(first + own) // of_stream)):
            begin = number * of_stream
            self.streams[number] = self.open_stream(number, count)
            self.slices[number] = slice(
                max(first, begin) - begin, min(first + own, begin + of_stream) - begin
            )

    def close(self) -> None:
        """Stop reading ahead."""
        for stream in self.streams.values():
            stream.close()
        self.streams.clear()
        self.slices.clear()
