"""Text on a terminal.

A model may generate anything, and a terminal executes control characters. So a model's text goes
through `visible` before it is printed.
"""

import os
import unicodedata
from typing import TextIO

from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

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


DIM = Style(dim=True)


def console(file: TextIO | None = None) -> Console:
    """Return a console on `file`, by default on stdout.

    It styles text only on a terminal, and not if the environment has NO_COLOR.
    """
    color_system = None if "NO_COLOR" in os.environ else "auto"
    return Console(file=file, color_system=color_system, highlight=False, soft_wrap=True)


def print_text(screen: Console, text: str, style: Style | None = None, end: str = "") -> None:
    """Print a piece of text at once: no line is wrapped, no tab expanded, no space dropped."""
    segment = Segment(visible(text, keep=TEXT_MARKS), style)
    screen.print(Segments([segment, Segment(end)]), end="")
