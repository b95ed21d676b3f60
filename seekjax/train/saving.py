"""When a run is saved, and what happens if it cannot be."""

import time
from collections.abc import Callable
from typing import Any

import jax

from seekjax.checkpoint.config_json import to_json
from seekjax.checkpoint.write import Checkpoints
from seekjax.config import Config
from seekjax.errors import CheckpointError
from seekjax.train.clock import Clock
from seekjax.train.state import RunSpec, TrainState

# With train.save_every 0: the share of the time that saving may take, and the least seconds
# between two saves.
SHARE = 0.05
LEAST = 60.0
# Seconds that saving has taken before it can be called too frequent.
NOTABLE = 10.0


class Saving:
    """Saves a run at its rhythm. A save that fails is reported at once, and training goes on."""

    def __init__(
        self,
        config: Config,
        checkpoints: Checkpoints,
        clock: Clock,
        say: Callable[[str], None],
        spec: RunSpec,
    ):
        self.config = config
        self.spec = spec
        self.checkpoints = checkpoints
        self.clock = clock
        self.say = say
        self.due = False  # stays true until the position can be saved: see Source.get_state
        self.every = LEAST  # seconds between two saves, with train.save_every 0
        self._ended = time.perf_counter()  # the last save
        self._first_ended: float | None = None  # the first save, which warms up
        self._spent = 0.0  # seconds of the saves after that
        self._noted = False

    def is_time(self) -> bool:
        """Return whether the seconds between two saves have passed, with train.save_every 0."""
        if self.config.train.save_every:
            return False
        return time.perf_counter() - self._ended >= self.every

    def schedule(self, step: int, requested: bool) -> None:
        """Note whether a save is due after this step."""
        every = self.config.train.save_every
        self.due = self.due or requested or (every > 0 and step % every == 0)

    def save(self, state: TrainState, position: Any) -> bool:
        """Begin to save; return whether that worked, and say why it did not."""
        self.due = False
        self.report_failure(wait=True)
        began = time.perf_counter()
        try:
            with self.clock.at("save"):
                self._begin(state, position)
        except CheckpointError as error:
            self._failed(error)
            return False
        finally:
            # Saving stops training for this long, and goes on behind it.
            self._ended = time.perf_counter()
            self.every = max(LEAST, (self._ended - began) / SHARE)
            self._note_cost(self._ended - began)
        return True

    def _note_cost(self, seconds: float) -> None:
        """Say once that a fixed rhythm spends more than SHARE of the time on saving."""
        if self._first_ended is None:
            self._first_ended = self._ended
            return
        self._spent += seconds
        every = self.config.train.save_every
        if self._noted or not every or self._spent < NOTABLE:
            return
        share = self._spent / (self._ended - self._first_ended)
        if share <= SHARE:
            return
        self._noted = True
        self.say(
            f"saving every {every} steps takes {share:.0%} of the time: a larger train.save_every "
            f"takes less, and 0 chooses it for under {SHARE:.0%}"
        )

    def report_failure(self, wait: bool = False) -> None:
        """Say that the last save failed in the background, as soon as that is known.

        Several processes can find out only together, before the next save.
        """
        if not wait and (self.checkpoints.is_saving or jax.process_count() > 1):
            return
        try:
            with self.clock.at("save"):
                self.checkpoints.wait()
        except CheckpointError as error:
            self._failed(error)

    def finish(self, state: TrainState, position: Any) -> None:
        """Save the end of a run, and return when it is on the disk. Raises CheckpointError."""
        self.report_failure(wait=True)
        with self.clock.at("save"):
            self._begin(state, position)
            self.checkpoints.wait()

    def rescue(self, state: TrainState, position: Any, done: int) -> None:
        """Save what was trained before an error ended the run, if that can be saved.

        Of several processes the others may not fail, and a collective save would hang.
        """
        if position is None or jax.process_count() > 1 or state.step.is_deleted():
            return
        step = int(state.step)
        if step > done and self.save(state, position):
            self.say(f"saved step {step}")

    def _begin(self, state: TrainState, position: Any) -> None:
        self.checkpoints.save(
            int(state.step),
            self.spec.saved(state),
            data=position,
            config=to_json(self.config),
            files=self.spec.files_of_step(),
        )

    def _failed(self, error: CheckpointError) -> None:
        self.say(f"*** {error}; training goes on, and the next save is tried")
