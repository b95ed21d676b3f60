"""What a run reports: JSON lines always, TensorBoard and Weights & Biases on request, a progress
line on the screen.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from seekjax.config import Config
from seekjax.errors import RunError
from seekjax.extras import import_extra


class Recorder:
    """Appends one object per report to metrics.jsonl; only the first process writes."""

    def __init__(self, config: Config, folder: Path, resumed_at: int):
        self.writers = []
        self.file = None
        if jax.process_index():
            return
        path = folder / "metrics.jsonl"
        keep_until(path, resumed_at)
        self.file = path.open("a")
        if config.tensorboard:
            self.writers.append(_tensorboard(folder))
        if config.wandb:
            self.writers.append(_wandb(config, folder))

    def write(self, record: dict[str, Any]) -> None:
        if self.file is None:
            return
        self.file.write(json.dumps(record, default=_plain) + "\n")
        self.file.flush()
        scalars = {
            name: float(value)
            for name, value in record.items()
            if np.ndim(value) == 0 and isinstance(value, float | int | np.generic)
        }
        for writer in self.writers:
            writer(scalars)


def keep_until(path: Path, step: int) -> None:
    """Drop what an earlier, interrupted start wrote beyond the step it is resumed at, and a line it
    could not finish.
    """
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        path.write_text("".join(line + "\n" for line in lines))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _plain(value: Any) -> Any:
    value = np.asarray(value)
    return [_plain(x) for x in value] if value.ndim else round(float(value), 6)


def _tensorboard(folder: Path):
    tensorboard = import_extra("tensorboardX", "tensorboard", "--tensorboard", RunError)
    writer = tensorboard.SummaryWriter(str(folder))
    return lambda scalars: [
        writer.add_scalar(name, value, int(scalars["step"]))
        for name, value in scalars.items()
        if name != "step"
    ]


def _wandb(config: Config, folder: Path):
    wandb = import_extra("wandb", "wandb", "--wandb", RunError)
    run = wandb.init(project=config.wandb, name=folder.name, dir=folder, resume="allow")
    return lambda scalars: run.log(scalars, step=int(scalars["step"]))


class Screen:
    """A live line on a terminal, a plain line per report elsewhere; silent on all processes but the
    first.
    """

    def __init__(self, steps: int, done: int):
        self.console = Console(soft_wrap=True, highlight=False, quiet=jax.process_index() > 0)
        self.steps, self.first = (
            steps,
            None,
        )  # when the first report came: what went before was compilation
        self.live = None
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
        """A line that stays."""
        self.console.print(text, markup=False)

    def report(self, record: dict[str, Any], learnt: str) -> None:
        """The progress line: what one wants to know without opening a file."""
        step = record["step"]
        text = (
            f"{learnt}  {record['tokens_per_second']:,.0f} tok/s  "
            f"{record['share_of_peak']:.0%} of peak  |g| {record['grad_norm']:.2f}  "
            f"MaxVio {record['max_violation']:.2f}"
        )
        if self.live:
            self.live.update(self.task, description=text, completed=step)
        else:
            now = time.monotonic()
            self.first = self.first or (step, now)
            left = int((now - self.first[1]) / max(step - self.first[0], 1) * (self.steps - step))
            self.say(
                f"step {step:>{len(str(self.steps))}}/{self.steps}  {text}"
                + (f"  ETA {left // 60}m{left % 60:02d}s" if left else "")
            )
