"""Documents of any length into rows of one length, from a position that is a handful of integers.

A row of `window` tokens holds `window - 1` predictions. Consecutive rows of a text share one token,
the last of one being the first of the next, so that every token is predicted exactly once and none
is lost at the cut.

Several documents are read side by side, one per *lane*, and the lanes take turns; otherwise a long
document would fill whole batches with one subject. A lane that ends its document opens the next of
the one shared stream. The position is therefore: the document and offset of each lane, how many
documents were opened, and whose turn it is. It counts documents and tokens only, so batch size,
worker processes and threads may change when a run resumes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np


@dataclass
class Lane:
    """A document being read."""

    document: int  # its place in the stream
    tokens: np.ndarray  # int32
    offset: int = 0  # tokens taken

    @property
    def ended(self) -> bool:
        return self.offset >= len(self.tokens)

    def take(self, most: int) -> np.ndarray:
        """Up to `most` further tokens."""
        taken = self.tokens[self.offset : self.offset + most]
        self.offset += len(taken)
        return taken


@dataclass(frozen=True)
class Stream:
    """An endless sequence of documents, by index or in order."""

    documents: grain.MapDataset  # of int32 tokens
    start: Callable[
        [grain.MapDataset], Iterator[np.ndarray]
    ]  # reads a dataset in order, ahead of use

    def since(self, document: int) -> Iterator[np.ndarray]:
        return self.start(self.documents[document:])


class Rows(grain.IterDataset):
    """Rows of int32 {"tokens", "segments"}; segments count the documents of a row from 1.

    With `split`, each has `window` tokens and a document may begin where another ended; without, up
    to `window` tokens of a single document, for a packer to fit together.
    """

    def __init__(self, stream: Stream, *, window: int, lanes: int, split: bool):
        super().__init__()
        self.stream, self.window, self.lanes, self.split = stream, window, lanes, split

    def __iter__(self) -> "RowIterator":
        return RowIterator(self)


class RowIterator(grain.DatasetIterator):
    """Rows from a position onwards."""

    def __init__(self, rows: Rows):
        super().__init__()
        self._rows = rows
        self._lanes: list[Lane] = []
        self._opened = self._turn = 0
        self._ahead = rows.stream.since(0)

    def __next__(self) -> dict[str, np.ndarray]:
        lane, room = self._lane(), self._rows.window
        pieces = [lane.take(room)]
        while self._rows.split and (room := room - len(pieces[-1])):
            self._open(lane)
            pieces.append(lane.take(room))
        if self._rows.split or not lane.ended:
            lane.offset -= 1  # the next row begins with this row's last token
        segments = np.repeat(
            np.arange(1, len(pieces) + 1, dtype=np.int32), [len(piece) for piece in pieces]
        )
        return {"tokens": np.concatenate(pieces), "segments": segments}

    def _lane(self) -> Lane:
        """The lane whose turn it is, with tokens left."""
        if self._turn == len(self._lanes):
            self._lanes.append(Lane(0, np.zeros(0, np.int32)))
        lane = self._lanes[self._turn]
        if lane.ended:
            self._open(lane)
        self._turn = (self._turn + 1) % self._rows.lanes
        return lane

    def _open(self, lane: Lane) -> None:
        lane.document, lane.tokens, lane.offset = self._opened, next(self._ahead), 0
        self._opened += 1

    def get_state(self) -> dict[str, Any]:
        """The position, JSON-able."""
        return {
            "lanes": [[lane.document, lane.offset] for lane in self._lanes],
            "opened": self._opened,
            "turn": self._turn,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a position in the same stream."""
        self._ahead.close()
        self._lanes = [
            Lane(document, self._rows.stream.documents[document], offset)
            for document, offset in state["lanes"]
        ]
        self._opened, self._turn = state["opened"], state["turn"]
        self._ahead = self._rows.stream.since(self._opened)

    def close(self) -> None:
        super().close()
        self._ahead.close()
