"""What a run reports: JSON lines always, a progress line, TensorBoard and W&B on request."""

import json
import math
import secrets
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.progress import Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from seekjax.checkpoint.config_json import to_json
from seekjax.config import Config
from seekjax.console import console
from seekjax.errors import RunError
from seekjax.extras import import_extra
from seekjax.storage import write_atomically
from seekjax.terminal import TEXT_MARKS, duration, visible
from seekjax.train.record import METRICS, append, keep_until, read, step_of
from seekjax.train.signals import Signals

Writer = Callable[[str, int, dict[str, float]], None]  # takes split, step and scalars of a report

LINES = 20  # that stay on a terminal over a whole run


class Recorder:
    """Appends one object per report to metrics.jsonl; only the first process writes.

    While the disk is full, lines are kept in memory: the run goes on, and they follow later.
    """

    def __init__(self, config: Config, folder: Path, resumed_at: int, say: Callable[[str], None]):
        self.writers: list[Writer] = []
        self.tensorboard: TensorBoard | None = None
        self.path: Path | None = None
        self.say = say
        self.waiting: list[str] = []  # lines that are not in the file yet
        if jax.process_index():
            return

        self.path = folder / METRICS
        keep_until(self.path, resumed_at)
        if config.tensorboard:
            self.tensorboard = TensorBoard(folder, resumed_at)
            self.writers.append(self.tensorboard.write)
        if config.wandb:
            self.writers.append(_wandb(config, folder))

    def write(self, record: dict[str, Any]) -> None:
        """Append a record, and hand its scalars to the other writers."""
        if self.path is None:
            return
        self.waiting.append(json.dumps(_plain(record)) + "\n")
        self._append(self.path)

        scalars = {}
        for name, value in record.items():
            if _is_scalar(value) and name != "step":
                scalars[name] = float(value)
        for write in self.writers:
            write(record["split"], record["step"], scalars)

    def rewind(self, step: int) -> None:
        """Drop the records of later steps, which are taken again."""
        if self.path is None:
            return
        self.waiting = [line for line in self.waiting if step_of(line) <= step]
        if self.tensorboard is not None:
            self.tensorboard.rewind(step)
        try:
            keep_until(self.path, step)
        except RunError as error:
            self.say(f"*** {error}")

    def is_evaluated(self, step: int) -> bool:
        """Return whether the file has held-out figures of a step, or cannot lack them.

        Of several processes none is interrupted while it evaluates.
        """
        if self.path is None or jax.process_count() > 1 or not self.path.exists():
            return True
        for record in read(self.path.parent):
            if record["step"] == step and record["split"] == "held_out":
                return True
        return False

    def _append(self, path: Path) -> None:
        """Append the lines that are waiting, if the disk takes them."""
        try:
            append(path, "".join(self.waiting))
        except OSError as error:
            if len(self.waiting) == 1:
                self.say(
                    f"*** {path} cannot be written ({error.strerror}): training goes on, and its "
                    "lines follow when there is room"
                )
            return
        self.waiting.clear()


def _is_scalar(value: Any) -> bool:
    return isinstance(value, float | int | np.generic) and np.ndim(value) == 0


def _plain(value: Any) -> Any:
    """A value in JSON's types: arrays as nested lists of rounded floats, null for nan and inf."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not hasattr(value, "dtype"):
        return value

    array = np.asarray(value)
    if array.ndim:
        return [_plain(row) for row in array]
    return _plain(round(float(array), 6))


class TensorBoard:
    """Writes events; those of steps that are taken again are hidden."""

    def __init__(self, folder: Path, step: int):
        self.package = import_extra("tensorboardX", "tensorboard", "--tensorboard", RunError)
        self.folder = folder
        self.open(step)

    def open(self, step: int) -> None:
        """Begin a file of events that hides those after a step."""
        self.writer = self.package.SummaryWriter(str(self.folder), purge_step=step + 1)

    def rewind(self, step: int) -> None:
        """Go on after an earlier step."""
        self.writer.close()
        self.open(step)

    def write(self, split: str, step: int, scalars: dict[str, float]) -> None:
        """Write the scalars of a report."""
        for name, value in scalars.items():
            self.writer.add_scalar(f"{split}/{name}", value, step)


def _wandb(config: Config, folder: Path) -> Writer:
    """Return a writer to the one W&B run of this folder, which is begun or continued."""
    wandb = import_extra("wandb", "wandb", "--wandb", RunError)
    id_file = folder / "wandb.txt"
    if not id_file.exists():
        write_atomically(id_file, secrets.token_hex(8))
    try:
        run = wandb.init(
            project=config.wandb,
            name=folder.name,
            id=id_file.read_text().strip(),
            config=to_json(config),
            dir=folder,
            resume="allow",
        )
    except Exception as error:  # its errors have no common class
        reason = str(error).partition("\n")[0]
        raise RunError(f"W&B cannot be used ({reason}): see --wandb.") from error

    def write(split: str, step: int, scalars: dict[str, float]) -> None:
        # W&B ignores steps that it has already: those of an earlier start are the same, and those
        # before a return to an older checkpoint stay.
        run.log({f"{split}/{name}": value for name, value in scalars.items()}, step=step)

    return write


class Screen:
    """A live line on a terminal, a plain line per report elsewhere.

    It is silent on all processes but the first. On a terminal that is gone it is silent too; a
    pipe whose reader has ended asks for the end of the run.
    """

    def __init__(self, steps: int, done: int, signals: Signals):
        is_first = jax.process_index() == 0
        self.console = console(quiet=not is_first)
        self.steps = steps
        self.signals = signals
        self.kept = done  # the step of the last line that stays
        self.live: Progress | None = None
        if is_first and self.console.is_terminal:
            # The description is cut where the line is too long.
            rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            columns = (
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
                TextColumn("{task.description}", table_column=rest),
            )
            self.live = Progress(*columns, console=self.console, expand=True)
            self.task = self.live.add_task("compiling", total=steps, completed=done)

    def __enter__(self) -> "Screen":
        if self.live:
            self.live.start()
        self.answer = self.signals.say
        self.signals.say = self.say
        return self

    def __exit__(self, *_) -> None:
        self.signals.say = self.answer
        if self.live:
            with suppress(OSError):
                self.live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays; control characters in it are shown."""
        try:
            self.console.print(visible(text, keep=TEXT_MARKS), markup=False)
        except BrokenPipeError:
            self.signals.stop = self.signals.stop or signal.SIGPIPE
        except OSError:
            pass  # the terminal is gone, or the disk of a log is full

    def report(self, record: dict[str, Any], progress: str, seconds_left: float | None) -> None:
        """Show the progress line of a step; `progress` is its first part."""
        step = record["step"]
        text = (
            f"{progress}  {record['tokens_per_second']:,.0f} tok/s  "
            f"{record['share_of_peak']:.0%} of peak  |g| {record['grad_norm']:.2f}  "
            f"MaxVio {record['max_violation']:.2f}"
        )
        if "device_max_violation" in record:
            text += f"  of devices {record['device_max_violation']:.2f}"
        if record.get("skipped"):
            text += f"  SKIPPED {record['skipped']:.0f}"
        if self.live:
            self.live.update(self.task, description=text, completed=step)
            if step - self.kept < self.steps / LINES:
                return

        self.kept = step
        width = len(str(self.steps))
        eta = f"  {duration(seconds_left)} left" if seconds_left else ""
        self.say(f"step {step:>{width}}/{self.steps}  {text}{eta}")
