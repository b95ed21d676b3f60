"""Signals that end a run or save it.

SIGINT (Ctrl-C), SIGTERM and SIGHUP end a run after the step in progress, saved; SIGUSR1 saves it
and goes on. A thread notes a signal and answers it with a line at once, also while the main thread
compiles: the interpreter writes each signal into a pipe, and runs a handler only between two
operations of its own.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from seekjax.errors import Status

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAVE = signal.SIGUSR1
GRACE = 2.0  # seconds in which the main thread may end by itself when there is nothing to save


class Interrupted(KeyboardInterrupt):
    """A signal ended what was going on."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)


class Signals:
    """What signals have requested since the start.

    own_process: this process is a command of its own, so that its end may be forced. In a notebook
    or another program, a second Ctrl-C raises KeyboardInterrupt instead.
    is_run: the command trains. Another one has nothing to save, and ends at once.
    """

    def __init__(self, own_process: bool = False, is_run: bool = True):
        self.own_process = own_process
        self.is_run = is_run
        self.stop: signal.Signals | None = None  # requested the end
        self.save = False  # a save is requested
        # The loop meets a request after the step in progress, because there is something to save.
        # Otherwise a signal ends the run at once.
        self.deferred = False
        self.say: Callable[[str], None] = _say
        self._may_interrupt = False
        self._interrupts = 0  # that the main thread has met
        self._answered = False  # the request to stop
        self._force: threading.Timer | None = None  # ends the process

    @contextmanager
    def interrupting(self, allowed: bool = True) -> Iterator[None]:
        """Let a signal raise Interrupted within the block, which can be left at any point."""
        import jax  # takes a second, which --help should not

        allowed = allowed and jax.process_count() == 1  # the others would wait for this one
        self._may_interrupt = allowed
        try:
            if allowed and self.stop is not None:
                raise Interrupted(self.stop)
            yield
        finally:
            self._may_interrupt = False

    def request(self, number: signal.Signals) -> None:
        """Note a signal and answer it; called by the thread that waits for signals."""
        if number == SAVE:
            self.save = True
            self._answer(f"{number.name}: saves after this step")
            return
        if self._answered:
            if number == signal.SIGINT and self.own_process:
                self._leave()
            return

        self._answered = True
        self.stop = self.stop or number
        if self.deferred:
            self._answer(f"{number.name}: ends after this step, saved; Ctrl-C again ends it now")
            return
        again = "; the same command starts or continues the run" if self.is_run else ""
        self._answer(f"{number.name}: ends now{again}")
        if self.own_process:
            self._force = threading.Timer(GRACE, self._leave)
            self._force.daemon = True
            self._force.start()

    def close(self) -> None:
        """Leave the end to the main thread, which goes on by itself."""
        if self._force is not None:
            self._force.cancel()

    def handle(self, number: int, _frame: object) -> None:
        """Note a signal in the main thread, and raise Interrupted where that is allowed."""
        if number == SAVE:
            self.save = True
            return
        self.stop = self.stop or signal.Signals(number)
        self._interrupts += number == signal.SIGINT
        if self._may_interrupt or not self.deferred or self._interrupts > 1:
            raise Interrupted(number)

    def _answer(self, text: str) -> None:
        with suppress(OSError):  # the terminal may be gone
            self.say(text)

    def _leave(self) -> None:
        """End the process now. Every file is complete or not there, as after kill -9."""
        with suppress(OSError):
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # show the cursor
        os._exit(Status.INTERRUPTED)


@contextmanager
def listening(
    signals: Signals | None = None, own_process: bool = False, is_run: bool = True
) -> Iterator[Signals]:
    """Yield what signals request from now on; `signals` itself if its owner listens already."""
    if signals is not None:
        yield signals
        return

    signals = Signals(own_process, is_run)
    if threading.current_thread() is not threading.main_thread():
        yield signals  # only the main thread may have handlers
        return

    numbers = (*STOPS, SAVE) if is_run else STOPS
    with _handlers(signals.handle, numbers), _pipe() as (end, write):
        old = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=_wait, args=(end, signals), daemon=True).start()
        try:
            yield signals
        finally:
            signals.close()
            signal.set_wakeup_fd(old, warn_on_full_buffer=False)


@contextmanager
def _handlers(
    handle: Callable[[int, object], None], numbers: Sequence[signal.Signals]
) -> Iterator[None]:
    """Handle the signals by `handle` within the block; an ignored SIGHUP (nohup) stays ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    old = {}
    for number in numbers:
        if not (ignored and number == signal.SIGHUP):
            old[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """Yield both ends of a pipe; closing its input ends the thread that waits at the other end."""
    end, write = os.pipe()
    os.set_blocking(write, False)
    try:
        yield end, write
    finally:
        os.close(write)


def _wait(end: int, signals: Signals) -> None:
    """Request what each signal asks for, until the pipe is closed."""
    handled = {int(number): number for number in (*STOPS, SAVE)}
    with os.fdopen(end, "rb", buffering=0) as pipe:
        while numbers := pipe.read(1):
            if numbers[0] in handled:
                signals.request(handled[numbers[0]])


def _say(text: str) -> None:
    """Print a line on stderr at once."""
    print(f"\n{text}", file=sys.stderr, flush=True)


def agreed(requests: tuple[bool, ...], step: int, every: int) -> list[bool]:
    """Return which requests any of the processes has.

    Several processes exchange this only every `every` steps, because the exchange makes them wait.
    """
    import jax

    if jax.process_count() == 1:
        return list(requests)
    if step % every:
        return [False for _ in requests]

    import numpy as np
    from jax.experimental import multihost_utils

    of_all = multihost_utils.process_allgather(np.array(requests))
    return np.any(of_all, axis=0).tolist()
