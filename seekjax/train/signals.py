"""Ending a run by Ctrl-C or SIGTERM, between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils


class Stop:
    """Return whether a signal requested the end of the run; false until one arrives."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a request that the loop meets after the current step.

    A second Ctrl-C ends the process at once.
    """
    stop = Stop()

    def request(number, _frame):
        if stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = signal.Signals(number)

    old = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def stop_agreed(stop: Stop, step: int, every: int) -> bool:
    """Return whether any process was requested to stop.

    Several processes exchange this only every `every` steps, because the exchange makes them wait.
    """
    if jax.process_count() == 1:
        return bool(stop)
    if step % every:
        return False
    return bool(np.any(multihost_utils.process_allgather(np.array(bool(stop)))))
