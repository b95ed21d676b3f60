"""A data worker, which is a process of its own, leaves signals to its parent and ends with it.

A terminal or a scheduler sends a signal to all processes of a program. The parent decides what it
means: it may need the next batch to end its step, and saves.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def begin_worker(_index: int, _count: int) -> None:
    """Ignore the signals of the parent from now on, and end when the parent has ended."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Start processes within the block that get no signal before `begin_worker`.

    They inherit what this thread holds back; other threads of this process get the signals.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        # The first process that Python spawns is this one, and it lets SIGINT and SIGTERM through
        # again, also to the workers that come after it.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this process when its parent has ended, also by kill -9."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
