"""Text as its ids come: no half characters, and nothing of a string that ends it."""

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"  # what an unfinished character spells


class Text:
    """A text that grows by ids. What `fresh` has handed out never changes."""

    def __init__(self, spell: Callable[[Sequence[int]], str], stop: Sequence[str] = ()):
        self._spell, self._stop = spell, stop
        self._pending: list[int] = []  # ids that do not spell whole characters yet
        self._text, self._given, self._ended = "", 0, False

    def __str__(self) -> str:
        return self._text

    def add(self, id: int) -> bool:
        """Take one more id; True once a stop string is complete, after which the text ends before
        it."""
        self._pending.append(id)
        piece = self._spell(self._pending)
        if (
            piece.endswith(BROKEN) and len(self._pending) < 8
        ):  # no character is longer; bytes that never make one are let through
            return False
        before = len(self._text)
        self._text, self._pending = self._text + piece, []
        found = [
            at
            for stop in self._stop
            if (at := self._text.find(stop, max(0, before - len(stop) + 1))) >= 0
        ]
        if found:
            self._text, self._ended = self._text[: min(found)], True
        return bool(found)

    def end(self) -> None:
        """No more ids: let go of what was held back."""
        if not self._ended:
            self._text, self._pending, self._ended = (
                self._text + (self._spell(self._pending) if self._pending else ""),
                [],
                True,
            )

    def fresh(self) -> str:
        """What is certain and was not handed out before; the beginning of a stop string waits until
        it is one, or is none."""
        certain = len(self._text)
        if not self._ended:
            certain -= max(
                (
                    length
                    for stop in self._stop
                    for length in range(1, len(stop))
                    if self._text.endswith(stop[:length])
                ),
                default=0,
            )
        piece, self._given = self._text[self._given : certain], max(self._given, certain)
        return piece
