"""Where the time of a run goes, and a report when something takes much longer than usual."""

import faulthandler
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from seekjax.terminal import duration

LEAST = 10.0  # seconds that nothing is reported before
UNKNOWN = 600.0  # seconds allowed at a place that was never left before, such as compilation
REMEMBERED = 50  # durations of each place

# What each place waits for, and what may hold it up.
PLACES = {
    "data": "the next batch: a slow disk, a worker that hangs, or rollouts that do not end",
    "step": "the devices to take the next step: a hung device, or another process",
    "device": "the figures of the steps in progress: a hung device, or another process",
    "report": "the report of a step: a slow or hung disk, or a terminal that has stopped",
    "evaluation": "the evaluation",
    "save": "the save: a slow or hung disk",
    "trace": "the trace of the profiler: a slow or hung disk",
}


@dataclass(frozen=True)
class Spent:
    """Seconds of a run over all its starts; the time between two starts does not count."""

    starts: int = 0  # begun before this one
    seconds: float = 0.0  # in those starts
    step_seconds: float = 0.0  # in steps that this start goes on from


class Clock:
    """The seconds of a run and of its steps, and a watchdog over the place it is at.

    A step that is repeated after a resume counts once, so that `goodput` is the share of all time
    that was spent in steps that counted: neither compilation, evaluation, saving, nor lost steps.
    """

    def __init__(self, before: Spent, began: float):
        self.before = before
        self.began = began  # of this start, as time.perf_counter has it
        self.step_seconds = before.step_seconds
        self.compiled = began  # when the first step was done
        self.spent: dict[str, float] = defaultdict(float)  # seconds at each place since then
        self._place: tuple[str, float] | None = None  # where the run is, and since when
        self._usual: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._reported: tuple[str, float] | None = None

    @property
    def seconds(self) -> float:
        """Seconds of all starts until now."""
        return self.before.seconds + time.perf_counter() - self.began

    @property
    def goodput(self) -> float:
        """Share of all time that was spent in steps that counted, 0 to 1."""
        return self.step_seconds / max(self.seconds, 1e-9)

    def record(self) -> dict[str, float]:
        """Return the figures of this clock for a row of metrics.jsonl."""
        return {
            "start": self.before.starts + 1,
            "seconds": round(self.seconds, 3),
            "step_seconds": round(self.step_seconds, 3),
            "goodput": round(self.goodput, 4),
        }

    def sentence(self) -> str:
        """Return the share of time in steps that counted, over all starts."""
        starts = self.before.starts + 1
        over = "" if starts == 1 else f" over {starts} starts"
        return (
            f"time: {duration(self.seconds)}{over}, {self.goodput:.0%} of it in steps that "
            "counted (the rest: compilation, evaluation, saving, steps lost to an end)"
        )

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Note that the run is at a place of PLACES while the block runs."""
        outer, begin = self._place, time.perf_counter()
        self._place = here = (place, begin)
        try:
            yield
        finally:
            self._place = outer
            seconds = time.perf_counter() - begin
            self.spent[place] += seconds
            if outer is not None:
                self.spent[outer[0]] -= seconds  # a place within another counts once
            # What was reported as too long does not become the usual.
            if self._reported != here:
                self._usual[place].append(seconds)

    def forget(self, *places: str) -> None:
        """Forget how long these places take, because that included compilation."""
        for place in places:
            self._usual.pop(place, None)

    def begin_steps(self) -> None:
        """Note that the first step is done: until here the time went to start and compilation."""
        self.forget("step", "device")
        self.compiled = time.perf_counter()
        self.spent.clear()

    def overdue(self, factor: float) -> str | None:
        """Return a sentence, once, if the run is at one place `factor` times as long as usual."""
        here = self._place
        if here is None or here == self._reported:
            return None
        place, since = here
        seconds = time.perf_counter() - since
        usual = max(self._usual[place], default=UNKNOWN / factor)
        if seconds < max(factor * usual, LEAST):
            return None

        self._reported = here
        return f"for {duration(seconds)} the run has been waiting for {PLACES[place]}"


@contextmanager
def watching(
    clock: Clock, factor: float, folder: Path, say: Callable[[str], None], every: float = 1.0
) -> Iterator[None]:
    """Report within the block, from a thread, what takes `factor` times as long as usual.

    What each thread is doing then is written to stacks.txt in the folder. No reports if `factor`
    is 0.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            sentence = clock.overdue(factor)
            if sentence:
                with suppress(OSError):
                    where = write_stacks(folder / "stacks.txt")
                    say(f"*** {sentence}; {where} has what each thread does")

    if factor:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def write_stacks(path: Path) -> Path:
    """Write where each thread of this process is; return the path."""
    with path.open("w") as file:
        faulthandler.dump_traceback(file)
    return path
