"""Incremental detokenisation: never emits part of a UTF-8 character or of a stop string."""

from collections.abc import Callable, Sequence

# ids to text; the texts of consecutive runs of ids, joined, are the text of all of them
Decode = Callable[[Sequence[int]], str]

REPLACEMENT = "\ufffd"  # what the bytes of an incomplete character decode to
LONGEST_CHARACTER = 8  # ids; no character takes more of them


class Detokenizer:
    """The text of a growing list of ids. What `take_new` has returned never changes."""

    def __init__(self, decode: Decode, stop: Sequence[str] = ()):
        self._decode = decode
        self._stop = stop
        self._pending: list[int] = []  # ids that do not decode to whole characters yet
        self._text = ""
        self._taken = 0  # characters that `take_new` has returned
        self._finished = False

    def __str__(self) -> str:
        return self._text

    def add(self, id: int) -> bool:
        """Append one id; return whether it completes a stop string, before which the text ends."""
        self._pending.append(id)
        piece = self._decode(self._pending)

        # bytes that never become a character are let through
        incomplete = piece.endswith(REPLACEMENT)
        if incomplete and len(self._pending) < LONGEST_CHARACTER:
            return False

        before = len(self._text)
        self._text += piece
        self._pending = []
        return self._cut_at_stop(before)

    def finish(self) -> None:
        """End the text after the last id: release what was held back."""
        if self._finished:
            return
        if self._pending:
            self._text += self._decode(self._pending)
        self._pending = []
        self._finished = True

    def take_new(self) -> str:
        """Return the text that is certain and was not returned before.

        A possible beginning of a stop string is held back until more text decides.
        """
        certain = len(self._text)
        if not self._finished:
            certain -= self._held_back()

        piece = self._text[self._taken : certain]
        self._taken = max(self._taken, certain)
        return piece

    def _cut_at_stop(self, before: int) -> bool:
        """End the text before the first stop string that reaches beyond `before` characters."""
        starts = []
        for stop in self._stop:
            start = self._text.find(stop, max(0, before - len(stop) + 1))
            if start >= 0:
                starts.append(start)

        if not starts:
            return False
        self._text = self._text[: min(starts)]
        self._finished = True
        return True

    def _held_back(self) -> int:
        """Return how many of the last characters may begin a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(1, len(stop)):
                if self._text.endswith(stop[:length]):
                    longest = max(longest, length)
        return longest
