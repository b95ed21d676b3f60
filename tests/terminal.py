"""A pseudo-terminal, on which a test types and reads as a person does."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

READY = "\x1b[?2004h"  # what the line editor sends when it is ready for a question
DONE = "\x1b[?2004l"  # and when it has one

CTRL_C, CTRL_D, ENTER, ALT_ENTER, TAB = "\x03", "\x04", "\r", "\x1b\r", "\t"
# Makes the terminal that a process has as input the one whose Ctrl-C it gets, and starts a program.
CLAIM = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"

UP, DOWN, LEFT = "\x1b[A", "\x1b[B", "\x1b[D"


class Terminal:
    """The side of a pseudo-terminal with the keyboard and the screen.

    `shown` is everything that was written to it. `program_side` is the file descriptor for the
    program.
    """

    def __init__(self):
        self._terminal, self.program_side = pty.openpty()
        self.shown = ""
        self._looked = 0  # characters in which what was waited for has been found

    def start(self, words: Sequence[str], cwd: Path | None = None, **environment: str):
        """Start a program of which this is the controlling terminal, as of a person's shell."""
        process = subprocess.Popen(
            [sys.executable, "-c", CLAIM, *words],
            stdin=self.program_side,
            stdout=self.program_side,
            stderr=self.program_side,
            env={**os.environ, "TERM": "xterm-256color", **environment},
            cwd=cwd,
            start_new_session=True,
        )
        os.close(self.program_side)
        return process

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._terminal, keys.encode())

    def wait_for(self, text: str, seconds: float = 120) -> str:
        """Read until new text is shown; return all that is new up to its end."""
        end = time.monotonic() + seconds
        while (at := self.shown.find(text, self._looked)) < 0:
            ready, _, _ = select.select([self._terminal], [], [], max(0, end - time.monotonic()))
            piece = self._read() if ready else ""
            assert piece, f"{text!r} does not follow {self.shown[self._looked :]!r}"
            self.shown += piece

        before, self._looked = self._looked, at + len(text)
        return self.shown[before : self._looked]

    def read_to_end(self) -> str:
        """Read until the program has gone; return what is new."""
        while piece := self._read():
            self.shown += piece
        before, self._looked = self._looked, len(self.shown)
        return self.shown[before:]

    def _read(self) -> str:
        try:
            return os.read(self._terminal, 4096).decode(errors="replace")
        except OSError:  # on Linux, the other side is closed
            return ""
