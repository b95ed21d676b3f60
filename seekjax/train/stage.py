"""What pre-training, fine-tuning and reinforcement each put in the loop's places."""

from pathlib import Path
from typing import Any, Protocol

import jax

from seekjax.config import Config
from seekjax.data import Tokenizer
from seekjax.train.state import RunSpec, TrainState


class Stage(Protocol):
    """A kind of training. Made before anything expensive: its __init__ reads the input, and raises
    DataError or ConfigError for what is bad."""

    config: Config
    tokenizer: Tokenizer
    plan: RunSpec
    alike: (
        bool  # whether all processes stand at the same position, which then fits any number of them
    )

    def about(self) -> list[str]:
        """Lines that say what will be read."""

    def manifest(self) -> dict[str, Any]:
        """What exactly is read, for data.json."""

    def open(self, folder: Path) -> None:
        """Make the plan and compile, on the mesh in use. `folder` is for what the stage wants to
        keep of its own."""

    def batch(self, step: int, state: TrainState) -> dict[str, jax.Array]:
        """What the step after so many learns from, [A, B, ...] on the devices."""

    def step(
        self, state: TrainState, batch: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, Any]]:
        """One optimizer step. Donates the state."""

    def tokens(self, step: int) -> int:
        """Tokens in that step, for the rate."""

    def position(self) -> Any:
        """Where the stage stands, JSON-able; None in the middle of something that is only saved as
        a whole."""

    def seek(self, position: Any) -> None:
        """Go on from there."""

    def derive(self, metrics: dict[str, float]) -> dict[str, float]:
        """Further scalars for the record of a step."""

    def describe(self, record: dict[str, Any]) -> str:
        """What the progress line says of a step."""

    def evaluate(self, state: TrainState) -> tuple[dict[str, float], str]:
        """Held-out figures, and a sentence of them."""

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        """The closing lines of a run; draws its pictures."""
