"""What a kind of training puts together for the loop: batches, an update, an evaluation, a report.

Pre-training, fine-tuning, distillation and reinforcement each are a `Training`. Making one reads
and checks its input, before anything expensive. Its method `build` then compiles, on the mesh in
use, and returns four parts that the loop (train/loop.py) calls. Kinds share parts, not base
classes: fine-tuning changes the source and the criterion; reinforcement has a source that draws
rollouts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax

from seekjax.config import Config
from seekjax.data import Tokenizer
from seekjax.train.state import RunSpec, TrainState

Batch = dict[str, jax.Array]  # arrays [A, B, ...]: A micro-batches of B rows make one step
Metrics = dict[str, Any]
Gradient = Callable[[TrainState, Batch], Any]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


class Source(Protocol):
    """Where batches come from, and the position in them."""

    def batch(self, step: int, state: TrainState) -> Batch:
        """Return the batch of optimizer step `step`, counted from 0, on the devices."""
        ...

    def tokens(self, step: int) -> int:
        """Return the tokens of that step, for the rate."""
        ...

    def get_state(self) -> Any:
        """Return the JSON-serialisable position, or None if the run cannot be saved here.

        It cannot in the middle of what one rollout is learnt from.
        """
        ...

    def set_state(self, position: Any) -> None:
        """Go on from a position that `get_state` returned.

        Or from {"processes": [...]}, those of all processes, if there were more or fewer of them
        and their positions differ (Training.shared_position).
        """
        ...


class Evaluator(Protocol):
    """Measures a state on held-out data."""

    def __call__(self, state: TrainState) -> tuple[dict[str, float], str]:
        """Return the held-out figures, and a sentence of them; {} if nothing is held out."""
        ...


class Report(Protocol):
    """The words of a run."""

    def header(self) -> list[str]:
        """Return the lines that state what will be read and trained."""
        ...

    def extra_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return further scalars for the record of a step."""
        ...

    def progress(self, record: dict[str, Any]) -> str:
        """Return what the progress line shows of a step."""
        ...

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        """Return the closing lines of a run; draws its pictures into the folder."""
        ...


@dataclass(frozen=True)
class Parts:
    """A kind of training, ready to run on the mesh in use."""

    spec: RunSpec
    source: Source
    step: Step  # one optimizer step; donates the state
    evaluate: Evaluator
    report: Report
    gradient: Gradient | None = None  # of a step's first micro-batch, to compute it again


class Training(Protocol):
    """A kind of training whose input has been read and checked; nothing is compiled yet."""

    config: Config
    tokenizer: Tokenizer
    # Whether all processes hold the same data position, which then fits any number of processes.
    shared_position: bool

    def __init__(self, config: Config) -> None:
        """Read and check the input. Raises DataError or ConfigError for bad input."""
        ...

    def manifest(self) -> dict[str, Any]:
        """Return what exactly is read, for data.json."""
        ...

    def build(self, folder: Path) -> Parts:
        """Compile on the mesh in use. `folder` is the run's, for files that the kind keeps."""
        ...
