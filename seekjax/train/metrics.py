"""What a run reports: JSON lines always, a progress line, TensorBoard and W&B on request."""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from seekjax.config import Config
from seekjax.errors import RunError
from seekjax.extras import import_extra
from seekjax.terminal import TEXT_MARKS, is_terminal, visible

Writer = Callable[[dict[str, float]], None]  # takes the scalars of one report

METRICS = "metrics.jsonl"


class Recorder:
    """Appends one object per report to metrics.jsonl; only the first process writes."""

    def __init__(self, config: Config, folder: Path, resumed_at: int):
        self.writers: list[Writer] = []
        self.file = None
        if jax.process_index():
            return

        path = folder / METRICS
        keep_until(path, resumed_at)
        self.file = path.open("a")
        if config.tensorboard:
            self.writers.append(_tensorboard(folder))
        if config.wandb:
            self.writers.append(_wandb(config, folder))

    def write(self, record: dict[str, Any]) -> None:
        """Append a record, and hand its scalars to the other writers."""
        if self.file is None:
            return
        self.file.write(json.dumps(record, default=_plain) + "\n")
        self.file.flush()

        scalars = {name: float(value) for name, value in record.items() if _is_scalar(value)}
        for write in self.writers:
            write(scalars)


def keep_until(path: Path, step: int) -> None:
    """Drop the lines that an interrupted start wrote beyond the step at which it is resumed.

    A line that it could not finish goes too.
    """
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        path.write_text("".join([line + "\n" for line in lines]))


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run."""
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def _step_of(line: str) -> float:
    """The step of a line; infinity for a line that is not a record."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf


def _is_scalar(value: Any) -> bool:
    return isinstance(value, float | int | np.generic) and np.ndim(value) == 0


def _plain(value: Any) -> Any:
    """An array as nested lists of rounded floats."""
    array = np.asarray(value)
    if array.ndim:
        return [_plain(row) for row in array]
    return round(float(array), 6)


def _tensorboard(folder: Path) -> Writer:
    tensorboard = import_extra("tensorboardX", "tensorboard", "--tensorboard", RunError)
    writer = tensorboard.SummaryWriter(str(folder))

    def write(scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            if name != "step":
                writer.add_scalar(name, value, int(scalars["step"]))

    return write


def _wandb(config: Config, folder: Path) -> Writer:
    wandb = import_extra("wandb", "wandb", "--wandb", RunError)
    run = wandb.init(project=config.wandb, name=folder.name, dir=folder, resume="allow")

    def write(scalars: dict[str, float]) -> None:
        run.log(scalars, step=int(scalars["step"]))

    return write


class Screen:
    """A live line on a terminal, a plain line per report elsewhere.

    It is silent on all processes but the first.
    """

    def __init__(self, steps: int, done: int):
        terminal = is_terminal(sys.stdout)
        quiet = jax.process_index() > 0
        self.console = Console(
            soft_wrap=True, highlight=False, force_terminal=terminal, quiet=quiet
        )
        self.steps = steps
        # Step and time of the first report: what went before was compilation.
        self.first: tuple[int, float] | None = None

        self.live: Progress | None = None
        if self.console.is_terminal and not jax.process_index():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
            )
            self.live = Progress(*columns, console=self.console)
            self.task = self.live.add_task("compiling", total=steps, completed=done)

    def __enter__(self) -> "Screen":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_) -> None:
        if self.live:
            self.live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays; control characters in it are shown."""
        self.console.print(visible(text, keep=TEXT_MARKS), markup=False)

    def report(self, record: dict[str, Any], progress: str) -> None:
        """Show the progress line of a step; `progress` is its first part."""
        step = record["step"]
        text = (
            f"{progress}  {record['tokens_per_second']:,.0f} tok/s  "
            f"{record['share_of_peak']:.0%} of peak  |g| {record['grad_norm']:.2f}  "
            f"MaxVio {record['max_violation']:.2f}"
        )
        if self.live:
            self.live.update(self.task, description=text, completed=step)
            return

        width = len(str(self.steps))
        seconds = self.seconds_left(step)
        eta = f"  ETA {seconds // 60}m{seconds % 60:02d}s" if seconds else ""
        self.say(f"step {step:>{width}}/{self.steps}  {text}{eta}")

    def seconds_left(self, step: int) -> int:
        """Return the seconds until the last step, at the speed since the first report."""
        now = time.monotonic()
        if self.first is None:
            self.first = step, now
        first_step, first_time = self.first
        per_step = (now - first_time) / max(step - first_step, 1)
        return int(per_step * (self.steps - step))
