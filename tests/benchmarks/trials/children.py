"""Children that are forked from a process that has imported everything and started no backend.

A trial needs hundreds of starts; a fork saves each of them the seconds of the imports. What a child
prints goes to a file; what it does is reported over a pipe, so that its parent can strike at a
moment of its choice.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from seekjax.commands.cli import main

LIMIT = 180  # seconds that a child may take before it counts as hung
KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG
CRASHED = 70  # status of a child whose work raised

Report = Callable[[str], None]
Work = Callable[[Report], int | None]


@dataclass
class Child:
    """A child that runs, or has ended."""

    pid: int
    pipe: Any
    log: Path
    began: float
    copier: subprocess.Popen | None = None  # what writes the log, if the child cannot
    reported: list[str] = field(default_factory=list)  # words, once they are read
    status: int | None = None  # exit status, or the negative number of the signal that ended it
    seconds: float = 0.0
    cpu: float = 0.0  # seconds
    peak: int = 0  # bytes of memory

    @property
    def crashed(self) -> bool:
        """Whether the child printed a traceback or died of something that nobody sent."""
        return "Traceback" in self.text() or self.status not in (0, 2, -signal.SIGKILL)

    def words(self) -> Iterator[str]:
        """Yield what the child reports, until it ends."""
        for line in self.pipe:
            self.reported.append(json.loads(line))
            yield self.reported[-1]

    def wait_for(self, word: str, times: int = 1) -> bool:
        """Wait until the child has reported a word so many times; False if it ends before."""
        for reported in self.words():
            times -= reported == word
            if times == 0:
                return True
        return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the child."""
        os.kill(self.pid, number)

    def end(self, limit: float = LIMIT) -> int:
        """Wait for the end and return the status; a child that takes too long is killed."""
        reader = threading.Thread(target=lambda: list(self.words()), daemon=True)
        reader.start()
        deadline = time.monotonic() + limit
        while True:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        reader.join(1)
        self.pipe.close()
        if self.copier:
            self.copier.wait()
        self.seconds = time.monotonic() - self.began
        self.cpu = used.ru_utime + used.ru_stime
        self.peak = used.ru_maxrss * 1024
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def text(self) -> str:
        """Return what the child has printed."""
        return self.log.read_text(errors="replace")

    def last_line(self) -> str:
        """Return the last line that the child has printed, for a report."""
        lines = [line for line in self.text().splitlines() if line.strip()]
        return lines[-1][-200:] if lines else "(nothing printed)"


def start(work: Work, log: Path, devices: int = 1, pipe: bool = False) -> Child:
    """Fork a child that does the work on so many emulated devices.

    pipe: what it prints goes through a pipe, which a full disk does not stop.
    """
    reading, writing = os.pipe()
    log.parent.mkdir(parents=True, exist_ok=True)
    copier = None
    if pipe:
        with log.open("wb") as file:
            copier = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
    pid = os.fork()
    if pid == 0:
        status = CRASHED
        try:
            os.close(reading)
            printed = copier.stdin if copier else log.open("wb", buffering=0)
            status = _child(work, printed, devices, writing)
        finally:
            os._exit(status)
    os.close(writing)
    if copier and copier.stdin:
        copier.stdin.close()
    return Child(pid, os.fdopen(reading), log, time.monotonic(), copier)


def finish(
    work: Work, log: Path, devices: int = 1, limit: float = LIMIT, pipe: bool = False
) -> Child:
    """Fork a child, let it do its work, and return it."""
    child = start(work, log, devices, pipe)
    child.end(limit)
    return child


def command(*words: object) -> Work:
    """Return the work of one command line of `seekjax`."""
    return lambda report: main([str(word) for word in words])


def watched(work: Work, *places: tuple[Any, str, str]) -> Work:
    """Return a work that reports a word whenever (object, name of its function, word) is called."""

    def report_and_work(report: Report) -> int | None:
        for owner, name, word in places:
            _report_calls(owner, name, word, report)
        return work(report)

    return report_and_work


def _report_calls(owner: Any, name: str, word: str, report: Report) -> None:
    function = getattr(owner, name)

    def reporting(*arguments: Any, **named: Any) -> Any:
        report(word)
        return function(*arguments, **named)

    setattr(owner, name, reporting)


def _child(work: Work, printed: Any, devices: int, writing: int) -> int:
    ctypes.CDLL(None).prctl(KILL_WITH_PARENT, signal.SIGKILL)
    os.dup2(printed.fileno(), 1)
    os.dup2(printed.fileno(), 2)
    printed.close()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8")
    jax.config.update("jax_num_cpu_devices", devices)

    def report(word: str) -> None:
        # A parent that has what it waited for reads no more.
        with contextlib.suppress(BrokenPipeError):
            os.write(writing, (json.dumps(word) + "\n").encode())

    try:
        status = work(report) or 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = CRASHED
    sys.stdout.flush()
    sys.stderr.flush()
    return status
