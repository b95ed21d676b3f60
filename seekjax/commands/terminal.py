"""The console of the commands that print a model's text."""

import os
import sys
from typing import TextIO

from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from seekjax.terminal import TEXT_MARKS, is_terminal, visible

DIM = Style(dim=True)


def console(file: TextIO | None = None) -> Console:
    """Return a console on `file`, by default on stdout.

    It styles text only on a terminal, and not if the environment has NO_COLOR.
    """
    terminal = is_terminal(file or sys.stdout)
    color_system = "auto" if terminal and "NO_COLOR" not in os.environ else None
    return Console(
        file=file,
        color_system=color_system,
        force_terminal=terminal,
        highlight=False,
        soft_wrap=True,
    )


def print_text(screen: Console, text: str, style: Style | None = None, end: str = "") -> None:
    """Print a piece of text at once: no line is wrapped, no tab expanded, no space dropped."""
    segment = Segment(visible(text, keep=TEXT_MARKS), style)
    screen.print(Segments([segment, Segment(end)]), end="")
