"""The training loop: `fit(config)` reads top to bottom."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from signal import Signals as Signal
from typing import Any

import jax

from seekjax.checkpoint.write import Checkpoints
from seekjax.config import Config
from seekjax.model.count import flops_per_token
from seekjax.model.routing import device_load, max_violation
from seekjax.open import initial_model, with_initial_model
from seekjax.placement import use_mesh
from seekjax.train.clock import Clock, watching
from seekjax.train.guard import Guard
from seekjax.train.hardware import matmul_peak
from seekjax.train.metrics import Recorder, Screen
from seekjax.train.pretrain import Pretraining
from seekjax.train.profile import profiling
from seekjax.train.remaining import Remaining
from seekjax.train.room import note_shortage
from seekjax.train.run_folder import (
    announce,
    describe,
    naming_fields,
    own_folder,
    refuse_another_run,
    time_spent,
)
from seekjax.train.saving import Saving
from seekjax.train.signals import Interrupted, Signals, agreed, listening
from seekjax.train.state import TrainState
from seekjax.train.training import Parts, Training
from seekjax.train.validate import validate
from sharding.mesh import join_hosts
from sharding.rules import split_by


@dataclass
class Fitted:
    """What a run leaves behind for its caller."""

    config: Config
    folder: Path
    training: Training
    parts: Parts
    state: TrainState
    finished: bool  # all steps are done; false if a signal ended the run
    stopped_by: Signal | None = None


def fit(
    config: Config,
    make_training: type[Training] = Pretraining,
    signals: Signals | None = None,
) -> Fitted:
    """Train from scratch, from config.init or from the newest checkpoint in config.out; save.

    `signals`: what the caller listens to; by default the run listens to them itself. Raises
    ConfigError, DataError, RunError or CheckpointError, each with one sentence, before anything
    expensive if that is possible, and Interrupted if a signal ends it before anything is trained.
    """
    began = time.perf_counter()
    with listening(signals) as signals:
        join_hosts()
        config = with_initial_model(config)
        validate(config)
        note_shortage(config)
        training = make_training(config)

        with (
            own_folder(config) as folder,
            use_mesh(config.mesh),
            closing(Checkpoints(folder, config.train.keep)) as checkpoints,
        ):
            # Compile, then begin or resume.
            parts = training.build(folder)
            with naming_fields(config, folder):
                state, done = begin(training, parts, checkpoints)
            refuse_another_run(config, folder, done)
            clock = Clock(time_spent(folder, done), began)

            with (
                Screen(config.train.steps, done, signals) as screen,
                watching(clock, config.train.watchdog, folder, screen.say),
            ):
                announce(screen.say, training, parts, folder, done)
                describe(screen.say, training, folder, done)
                recorder = Recorder(config, folder, done, screen.say)
                progress = Progress(config, parts, screen, recorder, clock)
                saving = Saving(config, checkpoints, clock, screen.say, parts.spec)
                again = partial(begin, training, parts, checkpoints)
                guard = Guard(config, parts, saving, recorder, screen.say, again)
                with profiling(config, folder, clock, screen.say) as profile:
                    parts = replace(parts, step=profile.around(parts.step))
                    state = train(parts, state, done, signals, screen, progress, saving, guard)

    finished = int(state.step) >= config.train.steps
    return Fitted(config, folder, training, parts, state, finished, signals.stop)


def train(
    parts: Parts,
    state: TrainState,
    done: int,
    signals: Signals,
    screen: Screen,
    progress: "Progress",
    saving: Saving,
    guard: Guard,
) -> TrainState:
    """Take the steps after `done`; return the state after the last one, which is saved."""
    train = progress.config.train
    clock = progress.clock
    position = parts.source.get_state()
    signals.deferred = jax.process_count() > 1  # the others would wait for a process that ends

    def evaluate(step: int) -> None:
        progress.flush()
        with clock.at("evaluation"), signals.interrupting(position is not None):
            figures, sentence = parts.evaluate(state)
        if figures:
            progress.recorder.write({"step": step, "split": "held_out", **figures})
            averaged = " (average of the weights)" if state.ema is not None else ""
            screen.say(f"step {step}: held out{averaged} {sentence}")
        guard.evaluated(step, figures)
        progress.restart()

    def is_due(step: int) -> bool:
        return step % train.eval_every == 0 or step == train.steps

    step = done
    try:
        # A signal may have interrupted the last evaluation.
        if done and is_due(done) and not progress.recorder.is_evaluated(done):
            evaluate(done)

        while step < train.steps:
            step += 1
            with clock.at("data"), signals.interrupting(position is not None):
                batch = parts.source.batch(step - 1, state)
            with clock.at("step"):
                guard.recompute(step, state, batch)
                state, metrics = parts.step(state, batch)
            position = parts.source.get_state()
            signals.deferred = True
            guard.observe(step, metrics)
            progress(step, metrics)

            if is_due(step):
                evaluate(step)

            requests = signals.stop is not None, signals.save or saving.is_time()
            stop, save = agreed(requests, step, train.log_every)
            saving.schedule(step, save)
            if guard.must_return(state, saving.due or step == train.steps):
                progress.flush()
                state, step = guard.go_back(state, step)
                done = min(done, step)
                position = parts.source.get_state()
                progress.go_back(step)
                continue
            if stop and position is not None:
                break
            can_save = position is not None and guard.may_save()
            if saving.due and can_save and step < train.steps:
                signals.save = False
                with progress.paused():
                    saving.save(state, position)
                guard.saved(step)
            saving.report_failure()
    except Interrupted:
        if not signals.deferred:
            raise
    except Exception:
        with suppress(Exception):  # what has failed is what the caller gets
            progress.flush()
            if guard.is_sound(state):
                saving.rescue(state, position, done)
        raise

    progress.flush()
    saved = int(state.step)
    is_sound = saved == train.steps or guard.is_sound(state)
    if saved > done and is_sound:
        saving.finish(state, position)
        screen.say(clock.sentence())
    signals.deferred = False
    if signals.stop is not None:
        line = saved_line(state) if is_sound else NOT_SAVED
        screen.say(f"{signals.stop.name}: {line}")
    return state


def begin(
    training: Training,
    parts: Parts,
    checkpoints: Checkpoints,
    with_data: bool = True,
) -> tuple[TrainState, int]:
    """Return the newest saved state, or the first one, and the steps that it has behind it.

    Without data, those go on from where they are.
    """
    restored = checkpoints.restore(parts.spec.abstract_like, training.shared_position)
    if restored is None:
        opened = initial_model(training.config)
        if opened is None:
            return parts.spec.start(), 0
        state = parts.spec.start(opened.variables)
        parts.spec.record_base(opened, state)
        return state, 0

    done, state, position = restored
    state = parts.spec.completed(state, checkpoints.folder / str(done))
    if position is not None and with_data:
        parts.source.set_state(position)
    return state, done


NOT_SAVED = (
    "not saved, because the last updates were skipped; the same command continues from the newest "
    "checkpoint."
)


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
        clock: Clock,
    ):
        self.config = config
        self.parts = parts
        self.screen = screen
        self.recorder = recorder
        self.clock = clock
        self.remaining = Remaining(config.train, clock)
        self.peak = matmul_peak(config.kernel.compute_dtype)
        self.flops = flops_per_token(config.model, config.data.sequence)
        self.expert_devices = split_by("experts")
        # enough rows for a picture
        self.load_every = max(config.train.log_every, config.train.steps // 200)
        self.pending: tuple[int, dict[str, Any]] | None = None
        self.skipped: list[Any] = []  # of the steps since the last report: whether they were
        self.first = True
        self.restart()

    def restart(self) -> None:
        """Restart the clock, leaving out what went on since the last report."""
        self.began = time.perf_counter()
        self.tokens = 0

    def go_back(self, step: int) -> None:
        """Go on from an earlier step: the seconds of later ones do not count."""
        if self.recorder.path is not None:
            self.clock.step_seconds = time_spent(self.recorder.path.parent, step).step_seconds
        self.skipped = []
        self.restart()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out of the rate."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.began += time.perf_counter() - begin

    def __call__(self, step: int, metrics: dict[str, Any]) -> None:
        """Report the step before if that is due, and keep these metrics if they will be."""
        self.flush()
        train = self.config.train
        self.tokens += self.parts.source.tokens(step - 1)
        self.skipped.append(metrics.get("skipped", 0.0))
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

        # The clock stops when that step is done. The first one includes compilation.
        with self.clock.at("device"):
            metrics = jax.device_get(metrics)
        metrics["skipped"] = sum(jax.device_get(self.skipped))
        self.skipped = []
        seconds = time.perf_counter() - self.began
        rate = self.tokens / seconds
        if self.first:
            self.clock.begin_steps()
        else:
            self.clock.step_seconds += seconds
        self.restart()
        self.first = False

        with self.clock.at("report"):
            record = self.record(step, metrics, rate)
            self.recorder.write(record)
            left = self.remaining.seconds(step)
            self.screen.report(record, self.parts.report.progress(record), left)
            line = self.remaining.line(left)
            if line is not None:
                self.screen.say(line)

    def record(
        self,
        step: int,
        metrics: dict[str, Any],
        rate: float,
    ) -> dict[str, Any]:
        """Return the row of metrics.jsonl for a step; `rate` is in tokens per second."""
        experts = metrics.pop("experts")
        scalars = {name: float(value) for name, value in metrics.items()}
        record = {
            "step": step,
            "split": "train",
            **scalars,
            **self.parts.report.extra_metrics(scalars),
            "tokens_per_second": rate,
            "share_of_peak": rate * self.flops / self.peak,
            **self.clock.record(),
            "max_violation": 0.0,
        }
        if experts:
            loads = {"load": experts.pop("load")}
            record["max_violation"] = float(experts["max_violation"].mean())
            if self.expert_devices > 1:
                loads["device_load"] = device_load(loads["load"], self.expert_devices)
                experts["device_max_violation"] = max_violation(loads["device_load"])
                record["device_max_violation"] = float(experts["device_max_violation"].mean())
            record |= {f"layer_{name}": value for name, value in experts.items()}
            if step % self.load_every == 0 or step == self.config.train.steps:
                record |= loads
        return record
