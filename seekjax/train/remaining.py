"""How long a run still takes here: measured after its first steps, and corrected as it goes on."""

import time

from seekjax.config import TrainConfig
from seekjax.train.clock import Clock

LEAST = 20.0  # seconds that are worth a line
CHANGED = 0.25  # share of the time left by which an estimate may be wrong before a new line
CHANGED_SECONDS = 60.0
FORWARD = 1 / 3  # of the time of a step, for the rows of a first evaluation


class Remaining:
    """Estimates the seconds to the last step: steps, evaluations and saves that are to come.

    Compilation does not count, which is over when the first step is reported.
    """

    def __init__(self, train: TrainConfig, clock: Clock):
        self.train = train
        self.clock = clock
        self.first: int | None = None  # the first step that was reported
        self.end: float | None = None  # when the run ends by the last line

    def seconds(self, step: int) -> float | None:
        """Return the seconds left as a step is reported; None at the first report."""
        if self.first is None:
            self.first = step
        if step <= self.first:
            return None

        # What a step takes, without the evaluations, with its share of the saves.
        spent = self.clock.spent
        aside = spent.get("evaluation", 0.0) + spent.get("trace", 0.0)
        of_steps = time.perf_counter() - self.clock.compiled - aside
        per_step = of_steps / (step - self.first)

        # An evaluation that was not measured yet is as long as its forward passes.
        done = self._evaluations(self.first, step)
        if done:
            per_evaluation = spent.get("evaluation", 0.0) / done
        else:
            per_evaluation = FORWARD * per_step * self.train.eval_rows / self.train.batch
        left = self._evaluations(step, self.train.steps + 1)
        return per_step * (self.train.steps - step) + per_evaluation * left

    def line(self, seconds: float | None) -> str | None:
        """Return the line that announces an estimate, or corrects one that has become wrong."""
        if seconds is None or seconds < LEAST:
            return None
        before, end = self.end, time.perf_counter() + seconds
        if before is None:
            self.end = end
            return f"this run: {about(seconds)} from here to its last step, on this machine"
        if abs(end - before) < max(CHANGED * seconds, CHANGED_SECONDS):
            return None
        self.end = end
        slower = "slower" if end > before else "quicker"
        return f"this run: now {about(seconds)} from here, {slower} than measured before"

    def _evaluations(self, start: int, stop: int) -> int:
        """Return how many evaluations the steps from `start` to before `stop` have."""
        every, steps = self.train.eval_every, self.train.steps
        count = (stop - 1) // every - (start - 1) // every
        has_last = start <= steps < stop and steps % every != 0
        return count + has_last


def about(seconds: float) -> str:
    """Return a rounded time in words: about 40 seconds, 5 minutes, 2.5 hours, 3.1 days."""
    if seconds < 55:
        return f"about {max(10, round(seconds, -1)):.0f} seconds"
    minutes = seconds / 60
    if minutes < 90:
        whole = max(1, round(minutes))
        return f"about {whole} minute{'' if whole == 1 else 's'}"
    hours = minutes / 60
    return f"about {hours:.1f} hours" if hours < 48 else f"about {hours / 24:.1f} days"
