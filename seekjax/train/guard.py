"""What follows from updates that go bad: they are counted, and a run that does not recover returns.

The step itself skips an update whose loss or gradient is not finite, or that is a spike
(seekjax/train/skip.py). After train.skip_limit of them in a row the weights themselves are
suspected: the run returns to its newest checkpoint, and goes on with other data. A checkpoint after
which no update was good, twice, is set aside, so that the one before it is used. A run that has
returned train.return_limit times and does not get further stops, with a diagnosis.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import Config
from seekjax.errors import RunError
from seekjax.train.metrics import Recorder
from seekjax.train.recompute import Recomputation
from seekjax.train.saving import Saving
from seekjax.train.skip import names
from seekjax.train.state import TrainState
from seekjax.train.training import Batch, Parts

# Steps on their way while the figures of an earlier one are read, so that the devices never wait;
# the same everywhere, so that all processes decide the same.
LAG = 2
SHOWN = 5  # parameters that a message names

# Returns the newest saved state, or the first one, and its step; True: with the data.
Again = Callable[[bool], tuple[TrainState, int]]


class Figures(NamedTuple):
    """What the guard reads of a step."""

    skipped: Any
    loss: Any
    norm: Any
    norms: Any  # of each parameter's gradient


class Guard:
    """Counts the skipped updates of a run, and decides when it returns to a checkpoint."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        saving: Saving,
        recorder: Recorder,
        say: Callable[[str], None],
        again: Again,
    ):
        self.config = config
        self.source = parts.source
        self.saving = saving
        self.recorder = recorder
        self.say = say
        self.again = again
        self.first_position = parts.source.get_state()
        self.names = names(parts.spec.shape.params)
        self.recomputation: Recomputation | None = None
        if config.train.recompute_every and parts.gradient is not None:
            self.recomputation = Recomputation(parts.gradient)

        self.pending: deque[tuple[int, Figures]] = deque()
        self.streak: list[int] = []  # steps skipped in a row, up to the newest that was read
        self.first_bad: tuple[int, Figures] | None = None  # since the run last got past its trouble
        self.last_good: tuple[int, Figures] | None = None
        self.fruitless = 0  # returns in a row after which no update was good
        self.returns = 0  # since the run last got past its trouble
        self.furthest = 0  # step from which it returned
        self.reason = ""  # why the state cannot be used, if it cannot
        self.replay = False  # after the return the same data are read again

    def recompute(self, step: int, state: TrainState, batch: Batch) -> None:
        """Compute a gradient twice, if that is due in step `step`, and compare the two."""
        if self.recomputation is None or step % self.config.train.recompute_every:
            return
        difference = self.recomputation(state, batch)
        if difference:
            self.reason = f"silent data corruption at step {step}: {difference}"
            self.replay = True

    def observe(self, step: int, metrics: dict[str, Any]) -> None:
        """Take note of a step's figures, which are read LAG steps later."""
        norms = metrics.pop("grad_norms", None)
        if norms is not None:
            figures = Figures(metrics["skipped"], metrics["loss"], metrics["grad_norm"], norms)
            self.pending.append((step, figures))
        while len(self.pending) > LAG:
            self._read()

    def evaluated(self, step: int, figures: dict[str, float]) -> None:
        """Take note of held-out figures: after a streak, their loss must be finite."""
        self._settle()
        loss = figures.get("loss", 0.0)
        if self.streak and not math.isfinite(loss):
            self.reason = f"held-out loss {loss} at step {step}"

    def must_return(self, state: TrainState, saving: bool) -> bool:
        """Return whether the run must return to a checkpoint; `saving` says that a save is due.

        Before a save everything is read: figures that are still on their way, and every array.
        """
        if saving:
            self._settle()
            if not self.streak and not self.reason:
                self.reason = _damage(state)
        limit = self.config.train.skip_limit
        return bool(self.reason) or 0 < limit <= len(self.streak)

    def may_save(self) -> bool:
        """Return whether the newest update was made, so that the state is known to be good."""
        return not self.streak or not self.config.train.skip_limit

    def is_sound(self, state: TrainState) -> bool:
        """Return whether a state that nothing follows may be saved."""
        return not self.must_return(state, saving=True) and self.may_save()

    def saved(self, step: int) -> None:
        """Take note of a new checkpoint: beyond the last trouble, the run got past it."""
        if step > self.furthest:
            self.returns = 0

    def go_back(self, state: TrainState, step: int) -> tuple[TrainState, int]:
        """Free a state, and return the newest saved one and its step.

        Raises RunError, with a diagnosis before it, after too many returns.
        """
        reason = self.reason or self._streak_line()
        self.returns += 1
        self.furthest = max(self.furthest, step)
        if self.returns > self.config.train.return_limit:
            self.reason = reason
            self._stop(step)

        self.saving.report_failure(wait=True)
        if self.fruitless >= 2:
            self.saving.checkpoints.set_aside_newest(f"no update after it was good: {reason}")
        jax.tree.map(lambda x: x.delete(), state)
        state, done = self.again(self.replay)
        if self.replay and not done:
            self.source.set_state(self.first_position)

        self.recorder.rewind(done)
        self.recorder.write({"step": done, "split": "guard", "from": step, "reason": reason})
        data = "the same data" if self.replay else "data that come after those"
        self.say(f"step {step}: {reason}: back to step {done}, and on with {data}")

        # Nothing that is on its way counts any more.
        self.pending.clear()
        self.streak = []
        self.fruitless += 1
        self.saving.due = False
        self.reason, self.replay = "", False
        return state, done

    def _stop(self, step: int) -> None:
        """Say what is known, and raise RunError."""
        for line in self._diagnosis():
            self.say(line)
        limit = self.config.train.return_limit
        raise RunError(
            f"training stopped at step {step}: {self.reason}, also after {limit} returns to a "
            "checkpoint. The newest checkpoint is unharmed; the lines above say what to try."
        )

    def _settle(self) -> None:
        """Read everything that is on its way."""
        while self.pending:
            self._read()

    def _read(self) -> None:
        """Read the figures of the oldest step on its way, and wait for it if necessary."""
        step, figures = self.pending.popleft()
        figures = Figures(*jax.device_get(tuple(figures)))
        if not figures.skipped:
            if len(self.streak) > 1:
                self.say(f"step {step}: updated again, after {len(self.streak)} skipped updates")
            self.streak = []
            self.last_good = step, figures
            self.fruitless = 0
            return

        self.streak.append(step)
        if len(self.streak) == 1:
            if not self.returns:
                self.first_bad = step, figures
            self.say(f"step {step}: update skipped, {self._describe(figures)}")

    def _describe(self, figures: Figures) -> str:
        """Return what was wrong with an update."""
        text = f"loss {figures.loss:.4g}, gradient norm {figures.norm:.4g}"
        bad = [name for name, norm in zip(self.names, figures.norms) if not np.isfinite(norm)]
        if bad:
            return f"{text}; not finite is the gradient of {shorten(bad)}"
        if np.isfinite(figures.loss):
            return f"{text}, far above recent ones"
        return text

    def _streak_line(self) -> str:
        """Return which updates were skipped in a row."""
        first, last = self.streak[0], self.streak[-1]
        return f"{len(self.streak)} updates skipped in a row, steps {first} to {last}"

    def _diagnosis(self) -> list[str]:
        """Return lines that name the first bad step, the largest gradients, and what to try."""
        lines = []
        if self.first_bad is not None:
            step, figures = self.first_bad
            lines.append(f"first bad step: {step}, {self._describe(figures)}")
        if self.last_good is not None:
            step, figures = self.last_good
            order = np.argsort(-figures.norms)[:SHOWN]
            largest = [f"{self.names[i]} {figures.norms[i]:.3g}" for i in order]
            lines.append(
                f"largest gradients at step {step}, the last good one (norm {figures.norm:.3g}, "
                f"loss {figures.loss:.4g}): {', '.join(largest)}"
            )
        return [*lines, *advice(self.config, self.reason)]


def advice(config: Config, reason: str) -> list[str]:
    """Return what to try when a run does not recover."""
    optimizer, train = config.optimizer, config.train
    if "corruption" in reason:
        return [
            "try: other devices. If these are healthy, the program is not deterministic on them "
            "(on GPUs set XLA_FLAGS=--xla_gpu_deterministic_ops=true) and train.recompute_every "
            "must be 0."
        ]

    options = [
        f"a lower optimizer.learning_rate (now {optimizer.learning_rate:g})",
        f"a longer optimizer.warmup (now {optimizer.warmup})",
        f"a lower optimizer.clip (now {optimizer.clip:g})"
        if optimizer.clip
        else "optimizer.clip 1",
    ]
    if config.kernel.dtype != "float32":
        options.append(f"kernel.dtype float32 (now {config.kernel.dtype})")
    if train.spike:
        options.append(f"a higher train.spike (now {train.spike:g}), if the updates were harmless")
    else:
        options.append("train.spike 10, which skips the updates that lead to such a step")
    return [f"try: {'; '.join(options)}."]


def _damage(state: TrainState) -> str:
    """Return in words which arrays of a state hold values that are not finite, "" for none."""
    names = non_finite(state)
    return f"values that are not finite in {shorten(names)}" if names else ""


def non_finite(state: TrainState) -> list[str]:
    """Return the names of the arrays of a state that hold values which are not finite."""
    arrays = {}
    for path, x in jax.tree_util.tree_leaves_with_path(state.replace(key=None)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # Recent updates are nan until there are any.
        if jnp.issubdtype(x.dtype, jnp.inexact) and not name.endswith("recent"):
            arrays[name] = x
    finite = jax.device_get(_all_finite(list(arrays.values())))
    return [name for name, is_finite in zip(arrays, finite) if not is_finite]


@jax.jit
def _all_finite(arrays: list[jax.Array]) -> list[jax.Array]:
    """Return of each array whether all its values are finite."""
    return [jnp.isfinite(x).all() for x in arrays]


def shorten(items: list[str]) -> str:
    """Return some names in words, and how many more there are."""
    text = ", ".join(items[:SHOWN])
    more = len(items) - SHOWN
    return f"{text} and {more} more" if more > 0 else text
