"""Whether the work of a tokenizer's regular expression is bounded.

A tokenizer.json comes with the weights, and its patterns run over every text. The engine tries the
alternatives of a pattern one after the other: with two repetitions inside one another, as in
(a+)+b, it tries exponentially many. Published patterns repeat single characters and classes of
them, at most two in a row, so nothing else is accepted; their work is at most quadratic in the
length of a run of equal characters.
"""

import re

from seekjax.errors import DataError

LONGEST = 4096  # characters of a pattern
MOST_REPEATS = 2  # unbounded repetitions in a row
MOST_TIMES = 64  # of a bounded repetition

# Groups that capture or not, and looking ahead or behind.
GROUP = re.compile(r"\((?:\?(?:[imsx]*:|=|!|<=|<!|>))?")
ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?\w+\}|x\{[0-9a-fA-F]+\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[sSdDwWhHbBAzZrnftv]"
    r"|[^a-zA-Z0-9])"
)
REPEAT = re.compile(r"(?:[*+?]|\{\d*,?\d*\})[+?]?")


def check_pattern(pattern: str) -> None:
    """Raise DataError unless a pattern consists of the parts that published ones have."""
    if len(pattern) > LONGEST:
        raise DataError(f"a pattern has {len(pattern)} characters, more than {LONGEST}")

    parser = _Parser(pattern)
    parser.alternatives()
    if not parser.ended:
        raise parser.refuse("it closes a group that it did not open")


class _Parser:
    """A recursive descent through a pattern, counting its repetitions."""

    def __init__(self, pattern: str):
        self.pattern = pattern
        self.position = 0
        self.depth = 0

    @property
    def ended(self) -> bool:
        """Return whether the whole pattern was read."""
        return self.position >= len(self.pattern)

    def refuse(self, reason: str) -> DataError:
        """Return the error of a pattern that is not accepted."""
        return DataError(f"the pattern {self.pattern[:60]!r} is not accepted: {reason}")

    def next_is(self, characters: str) -> bool:
        """Return whether the next character is one of these."""
        return not self.ended and self.pattern[self.position] in characters

    def take(self, form: re.Pattern[str]) -> str:
        """Return what the form matches here, and go on behind it; "" if it does not match."""
        match = form.match(self.pattern, self.position)
        if match is None:
            return ""
        self.position = match.end()
        return match[0]

    def alternatives(self) -> int:
        """Read alternatives; return the most unbounded repetitions in a row of any of them."""
        repeats = self.sequence()
        while self.next_is("|"):
            self.position += 1
            repeats = max(repeats, self.sequence())
        return repeats

    def sequence(self) -> int:
        """Read the parts of one alternative; return its unbounded repetitions in a row."""
        repeats = 0
        while not self.ended and not self.next_is("|)"):
            is_group = self.next_is("(")
            repeats += self.group() if is_group else self.character()
            repeats += self.repeat(is_group)
            if repeats > MOST_REPEATS:
                raise self.refuse(f"more than {MOST_REPEATS} repetitions follow one another")
        return repeats

    def group(self) -> int:
        """Read a group; return its unbounded repetitions."""
        self.depth += 1
        if self.depth > 8:
            raise self.refuse("its groups are nested too deeply")

        opening = self.take(GROUP)
        if self.next_is("?"):
            raise self.refuse("it has a group of an unknown kind")
        repeats = self.alternatives()
        if not self.next_is(")"):
            raise self.refuse("a group is not closed")
        if repeats and opening[2:] in ("=", "!", "<=", "<!"):
            raise self.refuse("it looks ahead or behind at a repetition")

        self.position += 1
        self.depth -= 1
        return repeats

    def character(self) -> int:
        """Read a character, or a class of them; return 0."""
        if self.next_is("["):
            self.character_class()
        elif self.next_is("\\"):
            if not self.take(ESCAPE):
                raise self.refuse("it has an escape of an unknown kind")
        elif self.next_is("*+?{"):
            raise self.refuse("it repeats nothing")
        else:
            self.position += 1
        return 0

    def character_class(self) -> None:
        """Read a class in brackets, which may hold others."""
        level = 0
        while True:
            if self.ended:
                raise self.refuse("a class of characters is not closed")
            if self.next_is("\\"):
                if not self.take(ESCAPE):
                    raise self.refuse("it has an escape of an unknown kind")
                continue
            level += self.next_is("[") - self.next_is("]")
            self.position += 1
            if level == 0:
                return

    def repeat(self, is_group: bool) -> int:
        """Read how often the last part repeats; return 1 if that is unbounded."""
        repeat = self.take(REPEAT)
        if self.next_is("*+?"):
            raise self.refuse("it repeats a repetition")
        if repeat in ("", "?", "??", "?+"):
            return 0
        if is_group:
            raise self.refuse("it repeats a group")

        times = [int(number) for number in re.findall(r"\d+", repeat)]
        if times and max(times) > MOST_TIMES:
            raise self.refuse(f"it repeats more than {MOST_TIMES} times")
        bounded = repeat.startswith("{") and not repeat.rstrip("+?").endswith(",}")
        return 0 if bounded else 1
