"""Text on a terminal, or on what replaces one: a file, a pipe, a terminal without colours.

A model may generate anything, and a terminal executes control characters. So a model's text goes
through `visible` before it is printed.
"""

import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import IO, TextIO, TypeVar

Item = TypeVar("Item")

# Categories of Unicode that are shown by number: control, direction and joining, half a pair,
# private use, unassigned, and other ends of line.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

# What running text needs of these: ends of line, tabs, and the joiners of emoji and of scripts.
TEXT_MARKS = "\n\t\u200c\u200d"

FIRST_PROGRESS, EVERY_PROGRESS = 3.0, 10.0  # seconds until the first line, and between lines


def visible(text: str, keep: str = "") -> str:
    r"""Return text that a terminal shows and does not execute.

    Characters that are invisible, or that move or hide other text, become their number as in a
    Python string (`\x1b`), except those in `keep`.
    """

    def show(character: str) -> str:
        if character in keep or unicodedata.category(character) not in HIDDEN:
            return character
        return ascii(character)[1:-1]

    return "".join(map(show, str(text)))


def well_formed(text: str) -> str:
    """Return a text as UTF-8 can hold it, from an argument or a line that may be no UTF-8.

    Python writes a byte that it cannot decode as half a surrogate pair. Bytes that are UTF-8
    after all become their characters, and all else U+FFFD.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # half a pair that stands for no byte
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def accept_any_text() -> None:
    """Let the standard streams replace what their encoding lacks, instead of ending the program.

    A terminal may be ASCII or cp1252, and input may be no UTF-8.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def is_terminal(file: IO[str]) -> bool:
    """Return whether lines in a file may be redrawn and coloured.

    It depends on the file alone: FORCE_COLOR makes no terminal of a file, and a terminal of type
    "dumb" shows control codes.
    """
    dumb = os.environ.get("TERM", "") in ("dumb", "unknown")
    return not dumb and not file.closed and file.isatty()


def print_lines(lines: Iterable[str]) -> None:
    """Print lines that may hold a model's text."""
    for line in lines:
        print(visible(line, keep=TEXT_MARKS), flush=True)


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return the lines of a table; the first `left` columns are flush left, the others right.

    No cell is cut: a line that is wider than the screen goes on below.
    """
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = []
    for row in table:
        cells = []
        for number, (cell, width) in enumerate(zip(row, widths)):
            cells.append(cell.ljust(width) if number < left else cell.rjust(width))
        lines.append("  ".join(cells).rstrip())
    return lines


class Progress:
    """Lines on stderr that show how far a command has come, one now and then.

    A command that ends within FIRST_PROGRESS seconds prints none.
    """

    def __init__(self, what: str, file: TextIO | None = None):
        self._what = what
        self._file = file
        self._began = time.monotonic()
        self._next = self._began + FIRST_PROGRESS
        self._first_share: float | None = None

    def __call__(self, share: float, note: str = "") -> None:
        """Print a line if one is due; `share` is done, from 0 to 1."""
        if self._first_share is None:
            self._first_share = share  # an interrupted command may begin in the middle
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_PROGRESS

        line = f"{self._what}: {share:.0%}"
        if share > self._first_share:
            seconds = (now - self._began) * (1 - share) / (share - self._first_share)
            line += f", {duration(seconds)} left"
        if note:
            line += f"; {note}"
        print(line, file=self._file or sys.stderr, flush=True)


def track(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield the items, and show how many of `total` are done."""
    progress = Progress(what)
    for done, item in enumerate(items):
        progress(done / max(1, total), f"{done:,} of {total:,}")
        yield item


@contextmanager
def elapsed(what: str) -> Iterator[None]:
    """Show now and then for how long the block has been running, when its end is unknown."""
    ended = Event()
    began = time.monotonic()

    def show() -> None:
        wait = FIRST_PROGRESS
        while not ended.wait(wait):
            so_far = duration(time.monotonic() - began)
            print(f"{what}: {so_far} so far", file=sys.stderr, flush=True)
            wait = EVERY_PROGRESS

    thread = Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """Return a time in words: 9s, 3m20s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def discard_output() -> None:
    """Send what is left for stdout nowhere, after its reader has gone."""
    with open(os.devnull, "w") as nowhere:
        try:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        except (OSError, ValueError):  # a stream without a file
            sys.stdout = nowhere
