"""What a run folder says of its run, read from its files alone and without JAX."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seekjax.checkpoint.old_config import in_current_form
from seekjax.config.run import POST_KINDS
from seekjax.errors import RunError, need
from seekjax.lock import is_held
from seekjax.storage import kind_of, read_json
from seekjax.train.record import METRICS, newest

# weights: a folder that holds a model and was never trained, as convert and quantize write it
State = Literal["done", "stopped", "running", "weights"]


@dataclass(frozen=True)
class Summary:
    """A run in one row; a figure that the run does not have is None."""

    folder: Path
    config: str  # its name, or the kind of training of a run without one
    steps: int  # done
    of_steps: int
    loss: float | None  # of the last training step reported
    bits_per_byte: float | None  # held out, like the next
    accuracy: float | None
    when: float  # of the last figure, in seconds since 1970
    state: State


def run_folders(folder: Path) -> Iterator[Path]:
    """Yield the folder of each run below a folder, and the folder itself if it is one."""
    for name, below, _ in os.walk(folder):
        path = Path(name)
        if kind_of(path) == "run" or (path / METRICS).exists():
            yield path
            below[:] = [part for part in below if part not in ("checkpoints", "profile")]
        below[:] = [part for part in sorted(below) if not part.startswith(".")]


def summarise(folder: Path) -> Summary:
    """Return the summary of a run. Raises RunError if its files cannot be read or are damaged."""
    config = read_settings(folder)
    steps = config["train"]["steps"]
    train, held_out = newest(folder, "train"), newest(folder, "held_out")
    done = train.get("step", 0)

    # A run is finished with its last step, also if the process has not ended.
    state: State = "stopped"
    if not train and (folder / "checkpoints").is_dir():
        state = "weights"
    elif done >= steps:
        state = "done"
    elif is_held(folder):
        state = "running"

    return Summary(
        folder,
        config=config["name"] or kind_of_training(config),
        steps=done,
        of_steps=steps,
        loss=_figure(train, "loss"),
        bits_per_byte=_figure(held_out, "bits_per_byte"),
        accuracy=_figure(held_out, "accuracy"),
        when=_changed(folder),
        state=state,
    )


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings in a run's config.json, as this version names them.

    They are not checked as those of a run to begin, except for what a summary needs. Raises
    RunError.
    """
    path = folder / "config.json"
    try:
        config = in_current_form(read_json(path, RunError))
    except RunError:
        raise
    except ValueError as error:
        raise RunError(f"{path} cannot be read as a config: {error}") from error

    train, name = config.get("train"), config.setdefault("name", "")
    has_steps = isinstance(train, dict) and isinstance(train.get("steps"), int)
    need(
        has_steps and isinstance(name, str),
        f"{path} has no train.steps: it is not that of a run.",
        RunError,
    )
    return config


def kind_of_training(config: dict[str, Any]) -> str:
    """Return sft, dpo, distill or grpo, and pretrain for what has none of these settings."""
    for kind in POST_KINDS:
        if config.get(kind) is not None:
            return kind
    return "pretrain"


def _figure(record: dict[str, Any], name: str) -> float | None:
    """Return a figure of a record; None if it lacks that or it was not finite."""
    value = record.get(name)
    return value if isinstance(value, int | float) else None


def _changed(folder: Path) -> float:
    """Return when the run last wrote a figure, or else its settings."""
    for name in (METRICS, "config.json"):
        if (folder / name).exists():
            return (folder / name).stat().st_mtime
    return folder.stat().st_mtime
