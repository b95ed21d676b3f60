"""The console on which text, the lines of a run and progress are printed, by rich."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Column
from rich.text import Text

from seekjax.terminal import TEXT_MARKS, duration, is_terminal, visible

Item = TypeVar("Item")

DIM = Style(dim=True)

NOTABLE = 3.0  # seconds after which the end of a work is worth a line
BAR = 20  # characters of a bar


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


class Shown:
    """How far a work has come: called with the share that is done, 0 to 1, and a note."""

    def __init__(self, what: str):
        self.what = what
        self.began = time.monotonic()
        self.share = 0.0
        self.note = ""
        self._first: float | None = None

    def __call__(self, share: float, note: str = "") -> None:
        """Note how far the work is. An interrupted one may begin in the middle."""
        if self._first is None:
            self._first = share
        self.share, self.note = share, note

    @property
    def seconds(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self.began

    def line(self, width: int) -> str:
        """Return the line for a terminal: what, a bar, the share, the time left, the note.

        In less than its width the bar goes first, then the note, then the end of what it is.
        """
        first = self._first or 0.0
        if self.share > first:
            left = self.seconds * (1 - self.share) / (self.share - first)
            time_left = f"{self.share:.0%}, {duration(left)} left"
        else:
            time_left = f"{duration(self.seconds)} so far"
        text = f"{time_left}, {self.note}" if self.note else time_left

        filled = round(BAR * self.share)
        bar = f"[{'=' * filled}{' ' * (BAR - filled)}] " if self.share else ""
        for rest in (bar + text, text, time_left):
            line = f"{self.what}: {rest}"
            if len(line) <= width:
                return line
        return f"{self.what[: max(width - len(time_left) - 3, 0)]}…: {time_left}"

    def last_line(self) -> str:
        """Return the line that stays: what was done, and in which time."""
        time_taken = duration(self.seconds)
        return f"{self.what}: {f'{self.note} in ' if self.note else ''}{time_taken}"


class ShownColumn(ProgressColumn):
    """The line of a work, as wide as the screen."""

    def __init__(self, shown: Shown, screen: Console):
        super().__init__(table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        self.shown = shown
        self.screen = screen

    def render(self, task: Task) -> Text:
        """Return the line as it is now."""
        return Text(visible(self.shown.line(self.screen.width)), no_wrap=True, overflow="ellipsis")


@contextmanager
def progress(what: str, file: TextIO | None = None) -> Iterator[Shown]:
    """Yield what shows on stderr how far the block has come, and the time left.

    On a terminal it is a line that is drawn again and again, and gone at the end. Whatever stderr
    is, a block of NOTABLE seconds leaves one line when it ends well.
    """
    file = file or sys.stderr
    screen = console(file)
    shown = Shown(what)
    live = None
    if screen.is_terminal:
        column = ShownColumn(shown, screen)
        live = Progress(column, console=screen, expand=True, transient=True, refresh_per_second=4)
        live.add_task(what)
        live.start()
    try:
        yield shown
    finally:
        if live is not None:
            live.stop()
    if shown.seconds >= NOTABLE:
        print(visible(shown.last_line()), file=file, flush=True)


def track(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield the items, and show how many of `total` are done."""
    with progress(what) as show:
        show(0.0)
        for done, item in enumerate(items, 1):
            yield item
            show(done / max(1, total), f"{done:,} of {total:,}")
