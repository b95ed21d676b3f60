"""The training loop: `fit(config)` reads top to bottom."""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from seekjax.config import Config
from seekjax.data import Corpus, Tokenizer, eval_batches, load_corpus, load_tokenizer, stories, train_batches
from seekjax.plan.count import flops_per_token
from seekjax.validate import validate
from sharding.mesh import join_hosts, make_mesh
from sharding.place import put_batch
from sharding.rules import use

from .checkpoint import Checkpoints
from .metrics import Recorder, Screen
from .run import Stop, announce, matmul_peak, open_folder, stop_on_signals, to_json
from .schedule import batch_at
from .state import Plan, TrainState
from .step import BATCH, compile_steps


@dataclass
class Fitted:
    """What a run leaves behind for whoever called it."""

    config: Config
    folder: Path
    plan: Plan
    state: TrainState
    corpus: Corpus
    tokenizer: Tokenizer
    finished: bool  # all steps done, not stopped by a signal


def fit(config: Config) -> Fitted:
    """Train from scratch or from the newest checkpoint in config.out, save, and return the final state.

    Raises ConfigError, DataError, RunError or CheckpointError, each with one sentence, before anything expensive where that is possible.
    """
    join_hosts()
    validate(config)
    corpus = load_corpus(config.data)
    tokenizer = load_tokenizer(config.data, config.model.vocab, corpus)
    folder = open_folder(config)
    steps, process = config.train.steps, {"process_index": jax.process_index(), "process_count": jax.process_count()}

    with use(make_mesh(config.mesh)), stop_on_signals() as stop, closing(Checkpoints(folder, config.train.keep)) as checkpoints:
        plan = Plan(config)
        batches = train_batches(config.data, corpus, tokenizer, batch=config.train.micro_batch or config.train.batch, seed=config.train.seed, **process)
        restored = checkpoints.restore(plan.abstract_state())
        if restored:
            done, state, position = restored
            if position is not None:
                batches.set_state(position)
        else:
            done, state = 0, plan.start()

        with Screen(steps, done) as screen:
            announce(screen.say, config, folder, corpus, tokenizer, done)
            if jax.process_index() == 0:
                tokenizer.save(folder)
            recorder = Recorder(config, folder, done)
            evaluation = Evaluation(config, corpus, tokenizer, process)
            report = Report(config, screen, recorder)
            train, evaluate = compile_steps(plan, tokenizer.bytes_V)
            for step in range(done, steps):
                micro = batch_at(config.train, step) // (config.train.micro_batch or config.train.batch)
                state, metrics = train(state, put_batch(stacked([next(batches) for _ in range(micro)]), BATCH))
                step += 1
                report(step, metrics)
                last = step == steps or agreed(stop, step, config)
                if step % config.train.eval_every == 0 or step == steps:
                    report.flush()
                    recorder.write(evaluation(evaluate, state, step, screen))
                    report.restart()
                if step % config.train.save_every == 0 or last:
                    checkpoints.save(step, state, data=batches.get_state(), config=to_json(config))
                if last:
                    break
            report.flush()
            if stop:
                screen.say(f"{stop.signal.name}: saved step {int(state.step)}; the same command continues from there.")
        checkpoints.wait()
    return Fitted(config, folder, plan, state, corpus, tokenizer, int(state.step) >= steps)


def stacked(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Micro-batches as one array with a leading axis."""
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def agreed(stop: Stop, step: int, config: Config) -> bool:
    """Whether any process was asked to stop; several processes ask each other at every report only, for it makes them wait."""
    if jax.process_count() == 1:
        return bool(stop)
    return step % config.train.log_every == 0 and bool(np.any(multihost_utils.process_allgather(np.array(bool(stop)))))


class Evaluation:
    """The same held-out batches each time, of every source apart."""

    def __init__(self, config: Config, corpus: Corpus, tokenizer: Tokenizer, process: dict[str, int]):
        batch = config.train.micro_batch or config.train.batch
        self.sources = {source.name: eval_batches(config.data, corpus, tokenizer, batch=batch, count=config.train.eval_batches,
                                                  source=source.name, **process)
                        for source in corpus.sources if len(source.held_out)}
        self.floor = {"stories": stories.entropy_per_token(tokenizer)} if "stories" in self.sources else {}

    def __call__(self, evaluate, state: TrainState, step: int, screen: Screen) -> dict[str, Any]:
        """Loss and bits per byte on the held-out text, from the moving average of the weights where one is kept."""
        record = {"step": step, "split": "held_out"}
        total, params = np.zeros(3), state.params if state.ema is None else state.ema
        for name, batches in self.sources.items():
            seen = [evaluate(params, state.balance, put_batch(batch, "batch sequence")) for batch in batches]
            nats, tokens, size = sums = np.sum([[float(one[key]) for key in ("nats", "tokens", "bytes")] for one in seen], 0)
            total += sums
            record[f"loss/{name}"], record[f"bits_per_byte/{name}"] = nats / tokens, nats / np.log(2) / size
            if name in self.floor:
                record[f"above_entropy/{name}"] = nats / tokens / self.floor[name] - 1
        nats, tokens, size = total
        record |= {"loss": nats / tokens, "bits_per_byte": nats / np.log(2) / size}
        parts = [f"{name} {record[f'bits_per_byte/{name}']:.3f}" for name in self.sources] if len(self.sources) > 1 else []
        parts += [f"{name} {record[f'above_entropy/{name}']:+.1%} over its true entropy" for name in self.floor]
        screen.say(f"step {step}: held out {record['bits_per_byte']:.3f} bits/byte, loss {record['loss']:.3f}" + (f" ({', '.join(parts)})" if parts else ""))
        return record


class Report:
    """Turns the metrics of a step into a record and a progress line, one step late so that the devices never wait for the screen."""

    def __init__(self, config: Config, screen: Screen, recorder: Recorder):
        self.config, self.screen, self.recorder = config, screen, recorder
        self.pending: tuple[int, dict] | None = None
        self.peak = matmul_peak(config.kernel.dtype)
        self.flops = flops_per_token(config.model, config.data.sequence)
        self.load_every = max(config.train.log_every, config.train.steps // 200)  # enough rows for a picture
        self.first = True
        self.restart()

    def restart(self) -> None:
        """Start the clock anew, leaving out whatever went on since the last report."""
        self.began, self.tokens = time.perf_counter(), 0

    def __call__(self, step: int, metrics: dict[str, jax.Array]) -> None:
        tokens = batch_at(self.config.train, step - 1) * self.config.data.sequence
        self.flush()
        self.tokens += tokens
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
        record = {"step": step, "split": "train", **{name: float(value) for name, value in metrics.items()},
                  "bits_per_byte": float(metrics["loss"] * metrics["tokens"] / np.log(2) / metrics["bytes"]),
                  "tokens_per_second": rate, "share_of_peak": rate * self.flops / self.peak, "max_violation": 0.0}
        if experts:
            load = experts.pop("load")
            record |= {"max_violation": float(experts["max_violation"].mean())} | {f"layer_{name}": value for name, value in experts.items()}
            if step % self.load_every == 0 or step == self.config.train.steps:
                record["load"] = load
        self.recorder.write(record)
        self.screen.report(record)
