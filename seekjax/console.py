"""The console on which a model's text and the lines of a run are printed, by rich."""

import os
import sys
from typing import TextIO

from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from seekjax.terminal import TEXT_MARKS, is_terminal, visible

DIM = Style(dim=True)


class PipedConsole(Console):
    """A console whose caller decides what happens after the reader of a pipe has gone."""

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError; rich itself would end the program with status 1."""
        raise BrokenPipeError


def console(file: TextIO | None = None, quiet: bool = False) -> Console:
    """Return a console on `file`, by default on stdout.

    It styles text only on a terminal, and not if the environment has NO_COLOR.
    """
    terminal = is_terminal(file or sys.stdout)
    color_system = "auto" if terminal and "NO_COLOR" not in os.environ else None
    return PipedConsole(
        file=file,
        color_system=color_system,
        force_terminal=terminal,
        force_jupyter=False,  # lines of text in a notebook too, which can be captured
        highlight=False,
        soft_wrap=True,
        quiet=quiet,
    )


def print_text(screen: Console, text: str, style: Style | None = None, end: str = "") -> None:
    """Print a piece of text at once: no line is wrapped, no tab expanded, no space dropped."""
    segment = Segment(visible(text, keep=TEXT_MARKS), style)
    screen.print(Segments([segment, Segment(end)]), end="")
