"""The training loop: `fit(config)` reads top to bottom."""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from seekjax.checkpoint.config_json import to_json
from seekjax.checkpoint.write import Checkpoints
from seekjax.config import Config
from seekjax.errors import DataError
from seekjax.model.count import flops_per_token
from seekjax.open import initial_variables, with_initial_model
from seekjax.placement import use_mesh
from seekjax.train.hardware import matmul_peak
from seekjax.train.metrics import Recorder, Screen
from seekjax.train.pretrain import Pretraining
from seekjax.train.run_folder import announce, describe, make_folder
from seekjax.train.signals import stop_agreed, stop_on_signals
from seekjax.train.state import TrainState
from seekjax.train.training import Parts, Training
from seekjax.train.validate import validate
from sharding.mesh import join_hosts


@dataclass
class Fitted:
    """What a run leaves behind for its caller."""

    config: Config
    folder: Path
    training: Training
    parts: Parts
    state: TrainState
    finished: bool  # all steps are done; false if a signal ended the run


def fit(config: Config, make_training: type[Training] = Pretraining) -> Fitted:
    """Train from scratch, from config.init or from the newest checkpoint in config.out; save.

    Raises ConfigError, DataError, RunError or CheckpointError, each with one sentence, before
    anything expensive if that is possible.
    """
    join_hosts()
    config = with_initial_model(config)
    validate(config)
    training = make_training(config)
    folder = make_folder(config)
    steps = config.train.steps

    with (
        use_mesh(config.mesh),
        stop_on_signals() as stop,
        closing(Checkpoints(folder, config.train.keep)) as checkpoints,
    ):
        # Compile, then begin or resume.
        parts = training.build(folder)
        state, done = begin(training, parts, checkpoints)
        position = parts.source.get_state()

        def save() -> None:
            checkpoints.save(int(state.step), state, data=position, config=to_json(config))

        with Screen(steps, done) as screen:
            announce(screen.say, training, parts, folder, done)
            describe(training, folder)
            recorder = Recorder(config, folder, done)
            progress = Progress(config, parts, screen, recorder)
            save_is_due = False  # stays true until the position can be saved: see Source.get_state

            try:
                for step in range(done, steps):
                    batch = parts.source.batch(step, state)
                    state, metrics = parts.step(state, batch)
                    position = parts.source.get_state()
                    step += 1
                    progress(step, metrics)

                    if step % config.train.eval_every == 0 or step == steps:
                        progress.flush()
                        figures, sentence = parts.evaluate(state)
                        if figures:
                            recorder.write({"step": step, "split": "held_out", **figures})
                            screen.say(f"step {step}: held out {sentence}")
                        progress.restart()

                    can_save = position is not None
                    stopped = can_save and stop_agreed(stop, step, config.train.log_every)
                    save_is_due |= step % config.train.save_every == 0
                    if (save_is_due and can_save) or stopped or step == steps:
                        save()
                        save_is_due = False
                    if stopped:
                        break
                progress.flush()
            except DataError:
                # Save what was trained before the bad data. Of several processes the others
                # may not fail, and a collective save would hang.
                trained = int(state.step) > done
                if trained and position is not None and jax.process_count() == 1:
                    progress.flush()
                    save()
                    screen.say(saved_line(state))
                raise

            if stop.signal is not None:
                screen.say(f"{stop.signal.name}: {saved_line(state)}")
        checkpoints.wait()
    return Fitted(config, folder, training, parts, state, int(state.step) >= steps)


def begin(
    training: Training,
    parts: Parts,
    checkpoints: Checkpoints,
) -> tuple[TrainState, int]:
    """Return the newest saved state, or the first one, and the steps that it has behind it."""
    restored = checkpoints.restore(parts.spec.abstract_like, training.shared_position)
    if restored is None:
        return parts.spec.start(initial_variables(training.config)), 0

    done, state, position = restored
    state = parts.spec.completed(state)
    if position is not None:
        parts.source.set_state(position)
    return state, done


def saved_line(state: TrainState) -> str:
    """Return the line that ends a run which can go on."""
    return f"saved step {int(state.step)}; the same command continues from there."


class Progress:
    """Turns the metrics of a step into a record and a progress line.

    It does so one step late, so that the devices never wait for the screen.
    """

    def __init__(
        self,
        config: Config,
        parts: Parts,
        screen: Screen,
        recorder: Recorder,
    ):
        self.config = config
        self.parts = parts
        self.screen = screen
        self.recorder = recorder
        self.peak = matmul_peak(config.kernel.dtype)
        self.flops = flops_per_token(config.model, config.data.sequence)
        # enough rows for a picture
        self.load_every = max(config.train.log_every, config.train.steps // 200)
        self.pending: tuple[int, dict[str, Any]] | None = None
        self.first = True
        self.restart()

    def restart(self) -> None:
        """Restart the clock, leaving out what went on since the last report."""
        self.began = time.perf_counter()
        self.tokens = 0

    def __call__(self, step: int, metrics: dict[str, Any]) -> None:
        """Report the step before if that is due, and keep these metrics if they will be."""
        self.flush()
        train = self.config.train
        self.tokens += self.parts.source.tokens(step - 1)
        if step % train.log_every == 0 or step == train.steps or self.first:
            self.pending = step, metrics
            if self.first:
                self.flush()
                self.restart()

    def flush(self) -> None:
        """Write the report that is due."""
        if self.pending is None:
            return
        step, metrics = self.pending
        self.pending = None

        # The clock stops when that step is done.
        metrics = jax.device_get(metrics)
        rate = self.tokens / (time.perf_counter() - self.began)
        self.restart()
        self.first = False

        record = self.record(step, metrics, rate)
        self.recorder.write(record)
        self.screen.report(record, self.parts.report.progress(record))

    def record(
        self,
        step: int,
        metrics: dict[str, Any],
        rate: float,
    ) -> dict[str, Any]:
        """Return the row of metrics.jsonl for a step; `rate` is in tokens per second."""
        experts = metrics.pop("experts")
        metrics.pop("grad_norms", None)
        scalars = {name: float(value) for name, value in metrics.items()}
        record = {
            "step": step,
            "split": "train",
            **scalars,
            **self.parts.report.extra_metrics(scalars),
            "tokens_per_second": rate,
            "share_of_peak": rate * self.flops / self.peak,
            "max_violation": 0.0,
        }
        if experts:
            load = experts.pop("load")
            record["max_violation"] = float(experts["max_violation"].mean())
            record |= {f"layer_{name}": value for name, value in experts.items()}
            if step % self.load_every == 0 or step == self.config.train.steps:
                record["load"] = load
        return record
