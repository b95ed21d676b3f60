"""The training loop: `fit(config)` reads top to bottom."""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from seekjax.checkpoint.config_json import to_json
from seekjax.checkpoint.write import Checkpoints
from seekjax.config import Config
from seekjax.config.validate import validate
from seekjax.data import DataError
from seekjax.model.count import flops_per_token
from seekjax.open import initial_variables, with_initial_model
from seekjax.placement import use_mesh
from seekjax.train.metrics import Recorder, Screen
from seekjax.train.pretrain import Pretraining
from seekjax.train.run import Stop, announce, matmul_peak, open_folder, stop_on_signals
from seekjax.train.stage import Stage
from seekjax.train.state import TrainState
from sharding.mesh import join_hosts


@dataclass
class Fitted:
    """What a run leaves behind for whoever called it."""

    config: Config
    folder: Path
    stage: Stage
    state: TrainState
    finished: bool  # all steps done, not stopped by a signal


def fit(config: Config, make_stage: type[Stage] = Pretraining) -> Fitted:
    """Train from scratch, from config.init or from the newest checkpoint in config.out, save, and
    return the final state.

    Raises ConfigError, DataError, RunError or CheckpointError, each with one sentence, before
    anything expensive where that is possible.
    """
    join_hosts()
    config = with_initial_model(config)
    validate(config)
    stage = make_stage(config)
    folder, steps = open_folder(config), config.train.steps

    with (
        use_mesh(config.mesh),
        stop_on_signals() as stop,
        closing(Checkpoints(folder, config.train.keep)) as checkpoints,
    ):
        stage.open(folder)
        restored = checkpoints.restore(stage.plan.abstract_state(), stage.alike)
        done, state, position = restored or (0, stage.plan.start(initial_variables(config)), None)
        if position is not None:
            stage.seek(position)
        position = stage.position()

        def save() -> None:
            checkpoints.save(int(state.step), state, data=position, config=to_json(config))

        with Screen(steps, done) as screen:
            announce(screen.say, config, folder, stage, done)
            recorder = Recorder(config, folder, done)
            report = Report(config, stage, screen, recorder)
            # a save that came in the middle of what a rollout is learnt from waits for its end
            due = False
            try:
                for step in range(done, steps):
                    state, metrics = stage.step(state, stage.batch(step, state))
                    position = stage.position()
                    step += 1
                    report(step, metrics)
                    last = step == steps or (position is not None and agreed(stop, step, config))
                    if step % config.train.eval_every == 0 or step == steps:
                        report.flush()
                        record, sentence = stage.evaluate(state)
                        recorder.write({"step": step, "split": "held_out", **record})
                        screen.say(f"step {step}: held out {sentence}")
                        report.restart()
                    due |= step % config.train.save_every == 0
                    if (due and position is not None) or last:
                        save()
                        due = False
                    if last:
                        break
                report.flush()
            # bad input costs no step that was made; of several processes one alone may meet it, and
            # the others would not come to save
            except DataError:
                if int(state.step) > done and position is not None and jax.process_count() == 1:
                    report.flush()
                    save()
                    screen.say(
                        f"saved step {int(state.step)}: the same command continues from there."
                    )
                raise
            if stop:
                screen.say(
                    f"{stop.signal.name}: saved step {int(state.step)}; the same command "
                    "continues from there."
                )
        checkpoints.wait()
    return Fitted(config, folder, stage, state, int(state.step) >= steps)


def agreed(stop: Stop, step: int, config: Config) -> bool:
    """Whether any process was asked to stop; several processes ask each other at every report only,
    for it makes them wait."""
    if jax.process_count() == 1:
        return bool(stop)
    return step % config.train.log_every == 0 and bool(
        np.any(multihost_utils.process_allgather(np.array(bool(stop))))
    )


class Report:
    """Turns the metrics of a step into a record and a progress line, one step late so that the
    devices never wait for the screen."""

    def __init__(self, config: Config, stage: Stage, screen: Screen, recorder: Recorder):
        self.config, self.stage, self.screen, self.recorder = config, stage, screen, recorder
        self.pending: tuple[int, dict] | None = None
        self.peak = matmul_peak(config.kernel.dtype)
        self.flops = flops_per_token(config.model, config.data.sequence)
        self.load_every = max(
            config.train.log_every, config.train.steps // 200
        )  # enough rows for a picture
        self.first = True
        self.restart()

    def restart(self) -> None:
        """Start the clock anew, leaving out whatever went on since the last report."""
        self.began, self.tokens = time.perf_counter(), 0

    def __call__(self, step: int, metrics: dict[str, jax.Array]) -> None:
        self.flush()
        self.tokens += self.stage.tokens(step - 1)
        if step % self.config.train.log_every == 0 or step == self.config.train.steps or self.first:
            self.pending = step, metrics
            if self.first:
                self.flush()
                self.restart()

    def flush(self) -> None:
        """Write the report that is due."""
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        metrics = jax.device_get(metrics)  # waits for that step
        seconds, tokens = time.perf_counter() - self.began, self.tokens
        self.restart()
        self.first = False
        rate = tokens / seconds
        experts = metrics.pop("experts")
        figures = {name: float(value) for name, value in metrics.items()}
        record = {
            "step": step,
            "split": "train",
            **figures,
            **self.stage.derive(figures),
            "tokens_per_second": rate,
            "share_of_peak": rate * self.flops / self.peak,
            "max_violation": 0.0,
        }
        if experts:
            load = experts.pop("load")
            record |= {"max_violation": float(experts["max_violation"].mean())} | {
                f"layer_{name}": value for name, value in experts.items()
            }
            if step % self.load_every == 0 or step == self.config.train.steps:
                record["load"] = load
        self.recorder.write(record)
        self.screen.report(record, self.stage.describe(record))
