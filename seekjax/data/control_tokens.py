"""Tokens that control a model, and the texts that contain their names without meaning them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import AddedToken

FIRST_MARK = 0xE000  # of the characters for private use


class ControlTokens:
    """Patterns that find the names of control tokens in a text.

    A control token is one that the file marks as special, that has a name in DeepSeek's form
    <｜...｜>, or that ends a text. Thinking tags are not: they are part of a text.

    Attributes:
        names: Finds the name of any control token.
        unmarked: Finds those that the file does not mark as special, and that the `tokenizers`
            library would therefore recognise in any text. R1's tokens for turns are such.
    """

    def __init__(self, added: Mapping[int, AddedToken], stops: Iterable[int]):
        names, unmarked = [], []
        for id, token in added.items():
            name = token.content
            in_form = name.startswith("<｜") and name.endswith("｜>")
            if token.special or in_form or id in stops:
                names.append(name)
                if not token.special:
                    unmarked.append(name)
        self.names = _any_of(names)
        self.unmarked = _any_of(unmarked)

    def break_names(self, value: Any) -> tuple[Any, str]:
        """Return a value of texts in lists and dicts with all names broken by a mark, and the mark.

        The mark is a character that none of the texts contains; "" if they contain no name.
        """
        texts: list[str] = []
        _collect(value, texts)
        if not any(map(self.names.search, texts)):
            return value, ""

        used = set("".join(texts))
        code = FIRST_MARK
        while chr(code) in used:
            code += 1
        return self._broken(value, chr(code)), chr(code)

    def _broken(self, value: Any, mark: str) -> Any:
        if isinstance(value, str):
            return self.names.sub(lambda name: name[0][0] + mark + name[0][1:], value)
        if isinstance(value, Mapping):
            return {self._broken(k, mark): self._broken(part, mark) for k, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._broken(part, mark) for part in value]
        return value


def _collect(value: Any, texts: list[str]) -> None:
    """Append all texts in a value."""
    if isinstance(value, str):
        texts.append(value)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _collect(key, texts)
            _collect(part, texts)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _collect(part, texts)


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of the names, the longest first; none if there are none."""
    longest_first = sorted(set(names), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
