"""Text on a terminal, or on what replaces one: a file, a pipe, a terminal without colours.

A model may generate anything, and a terminal executes control characters. So a model's text goes
through `visible` before it is printed.
"""

import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import IO

# Categories of Unicode that are shown by number: control, direction and joining, half a pair,
# private use, unassigned, and other ends of line.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

# What running text needs of these: ends of line, tabs, and the joiners of emoji and of scripts.
TEXT_MARKS = "\n\t\u200c\u200d"


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
