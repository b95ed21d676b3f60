"""Pack documents of any length into rows of one length; the position is a few integers.

A row of `window` tokens holds `window - 1` predictions. Consecutive rows of a text share one token,
the last of one and the first of the next, so that every token is predicted exactly once and no
prediction is lost at the cut.

Several documents are read side by side, one per *lane*, and the lanes take turns; otherwise a long
document would fill whole batches with one subject. A lane that reaches the end of its document
opens the next one of the shared stream. The position is therefore the document and offset of each
lane, the number of documents opened, and whose turn it is. It counts documents and tokens only, so
batch size, worker processes and threads may change when a run resumes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np


@dataclass
class Lane:
    """A document that is being read."""

    document: int  # its index in the stream
    tokens: np.ndarray  # int32
    offset: int = 0  # tokens taken

    @property
    def ended(self) -> bool:
        """Return whether all tokens of the document are taken."""
        return self.offset >= len(self.tokens)

    def take(self, limit: int) -> np.ndarray:
        """Take up to `limit` further tokens."""
        taken = self.tokens[self.offset : self.offset + limit]
        self.offset += len(taken)
        return taken


@dataclass(frozen=True)
class Stream:
    """An endless sequence of documents, by index or in order."""

    documents: grain.MapDataset  # of int32 tokens
    # iterates over a dataset in order, and may read ahead of use
    start: Callable[[grain.MapDataset], grain.DatasetIterator]

    def since(self, document: int) -> grain.DatasetIterator:
        """Return an iterator over the documents from this index on."""
        return self.start(self.documents[document:])


class Rows(grain.IterDataset):
    """Rows of int32 {"tokens", "segments"}; segments count the documents of a row from 1.

    With `split`, each row has `window` tokens, and a document may begin where another ended.
    Without `split`, a row has up to `window` tokens of a single document, for a packer to combine.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        window: int,
        lanes: int,
        split: bool,
    ):
        super().__init__()
        self.stream = stream
        self.window = window
        self.lanes = lanes
        self.split = split

    def __iter__(self) -> "RowIterator":
        return RowIterator(self)


class RowIterator(grain.DatasetIterator):
    """An iterator over rows from a position on."""

    def __init__(self, rows: Rows):
        super().__init__()
        self._rows = rows
        self._lanes: list[Lane] = []
        self._opened = 0  # documents of the stream that a lane has opened
        self._turn = 0  # index of the next lane
        self._ahead = rows.stream.since(0)

    def __next__(self) -> dict[str, np.ndarray]:
        lane = self._next_lane()
        pieces = [lane.take(self._rows.window)]
        room = self._rows.window - len(pieces[0])

        # Fill the row from the documents that follow.
        while self._rows.split and room:
            self._open_next(lane)
            pieces.append(lane.take(room))
            room -= len(pieces[-1])

        # The next row of a text begins with the last token of this one.
        if self._rows.split or not lane.ended:
            lane.offset -= 1

        numbers = np.arange(1, len(pieces) + 1, dtype=np.int32)
        segments = np.repeat(numbers, [len(piece) for piece in pieces])
        return {"tokens": np.concatenate(pieces), "segments": segments}

    def _next_lane(self) -> Lane:
        """Return the lane whose turn it is, with tokens left to take."""
        if self._turn == len(self._lanes):
            self._lanes.append(Lane(0, np.zeros(0, np.int32)))

        lane = self._lanes[self._turn]
        if lane.ended:
            self._open_next(lane)

        self._turn = (self._turn + 1) % self._rows.lanes
        return lane

    def _open_next(self, lane: Lane) -> None:
        """Give a lane the next document of the stream."""
        lane.document = self._opened
        lane.tokens = next(self._ahead)
        lane.offset = 0
        self._opened += 1

    def get_state(self) -> dict[str, Any]:
        """Return the position, JSON-serialisable."""
        return {
            "lanes": [[lane.document, lane.offset] for lane in self._lanes],
            "opened": self._opened,
            "turn": self._turn,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a position in the same stream."""
        self._ahead.close()
        stream = self._rows.stream

        self._lanes = []
        for document, offset in state["lanes"]:
            self._lanes.append(Lane(document, stream.documents[document], offset))

        self._opened = state["opened"]
        self._turn = state["turn"]
        self._ahead = stream.since(self._opened)

    def close(self) -> None:
        """Stop reading ahead."""
        super().close()
        self._ahead.close()
