"""Text as it arrives, split into reasoning and answer, and ended before a stop string.

How the text is cut into pieces changes neither.
"""

from collections.abc import Sequence

from seekjax.data.chat import overlap
from seekjax.data.tokenizer import THINK, THINK_END


class ReasoningSplitter:
    """Splits an answer into its reasoning, <think>...</think> at the beginning, and the rest.

    Tags anywhere else are text. Line breaks at both ends of the reasoning, and between it and the
    rest, belong to neither. `thinking`: the prompt has opened the reasoning; `closed`: there is
    none.
    """

    def __init__(self, thinking: bool = False, closed: bool = False):
        self._state = "before"
        if thinking:
            self._state = "opened"
        elif closed:
            self._state = "answer"
        self._held = ""  # may be the beginning of a tag, or line breaks before one

    @property
    def thinking(self) -> bool:
        """The next text is reasoning, unless it is a tag."""
        return self._state in ("opened", "thinking")

    def feed(self, text: str, last: bool = False) -> list[tuple[bool, str]]:
        """Return the pieces that `text` completes, each with whether it is reasoning."""
        text = self._held + text
        self._held = ""
        pieces = []

        # only blanks may come before the tag
        if self._state == "before":
            start = text.lstrip()
            if start.startswith(THINK):
                self._state = "opened"
                text = start[len(THINK) :]
            elif THINK.startswith(start) and not last:
                self._held = text
                return []
            else:
                self._state = "answer"

        if self._state == "opened":
            text = text.lstrip("\n")
            if text:
                self._state = "thinking"

        if self._state == "thinking":
            inside, tag, text = text.partition(THINK_END)
            if tag:
                self._state = "behind"
                inside = inside.rstrip("\n")
            elif not last:
                certain = inside[: len(inside) - overlap(inside, THINK_END)].rstrip("\n")
                self._held = inside[len(certain) :]
                inside = certain
            pieces.append((True, inside))

        if self._state == "behind":
            text = text.lstrip("\n")
            if text:
                self._state = "answer"

        if self._state == "answer":
            pieces.append((False, text))
        return [piece for piece in pieces if piece[1]]


class StopStrings:
    """Ends a text before the first stop string that is complete."""

    def __init__(self, stop: Sequence[str] = ()):
        self._stop = stop
        self._held = ""  # may be the beginning of a stop string
        self.matched = ""  # the one that ended the text

    def feed(self, text: str, last: bool = False) -> str:
        """Return the text that is certain now; nothing more after a stop string."""
        if self.matched or not self._stop:
            return "" if self.matched else text
        text = self._held + text
        self._held = ""

        # the one that ends first, and of those the longest
        matches = []
        for stop in self._stop:
            start = text.find(stop)
            if start >= 0:
                matches.append((start + len(stop), start, stop))
        if matches:
            _, start, self.matched = min(matches)
            return text[:start]

        held = 0
        if not last:
            for stop in self._stop:
                held = max(held, overlap(text, stop))
        certain = len(text) - held
        self._held = text[certain:]
        return text[:certain]
