"""Numbers that go bad: a poisoned batch, a learning rate that is 100 times too high for a step, NaN
in the weights. The run ends as good as the clean one."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seekjax.commands.arguments import parse
from seekjax.post.kinds import fit
from seekjax.train import pretrain
from tests.benchmarks.trials.children import Report, Work, finish
from tests.benchmarks.trials.row import Row, some
from tests.benchmarks.trials.runs import make_corpus, train_words

STEPS = 300
AT = 143  # the step that is disturbed, once
TOLERANCE = 0.01  # of the final held-out loss, relative
SETTINGS = ("--train.steps", STEPS, "--train.save-every", 25, "--train.eval-every", STEPS)
SETTINGS += ("--train.eval-batches", 8, "--train.log-every", 25, "--train.spike", 10)

Step = Callable[[Any, Any], tuple[Any, dict[str, Any]]]


def garbage(step: Step, state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """Make the step on random tokens."""
    random_tokens = jax.random.randint(jax.random.key(0), batch["tokens"].shape, 0, 256)
    return step(state, batch | {"tokens": random_tokens.astype(batch["tokens"].dtype)})


def high_rate(step: Step, state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """Make the step 100 times as long."""
    before = jax.tree.map(jnp.copy, state.params)
    state, metrics = step(state, batch)
    longer = jax.tree.map(lambda old, new: old + 100 * (new - old), before, state.params)
    return state.replace(params=longer), metrics


def nan_weights(step: Step, state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """Make the step with one weight of every parameter that is not a number."""

    def spoil(weights: jax.Array) -> jax.Array:
        return weights.at[(-1,) * weights.ndim].set(jnp.nan)

    return step(state.replace(params=jax.tree.map(spoil, state.params)), batch)


def nan_gradient(step: Step, state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """Make the step from weights that are not numbers, and put the weights back afterwards."""
    before = jax.tree.map(jnp.copy, state.params)
    state, metrics = nan_weights(step, state, batch)
    return state.replace(params=before), metrics


DISTURBANCES = {
    "weights of NaN": nan_weights,
    "a rate 100 times too high for one step": high_rate,
    "a batch of random tokens": garbage,
    "a batch with a gradient of NaN": nan_gradient,
}


def run(work: Path, share: float, rng: random.Random) -> list[Row]:
    """Disturb one step of a run in each way, and compare the loss at its end."""
    data = make_corpus(work / "data", documents=200, words=600)
    row = Row("numbers that go bad", f"final loss within {TOLERANCE:.0%} of the clean run")
    losses = {}
    with row.clock():
        clean = final_loss(train_words(work / "clean", data, *SETTINGS), None, work)
        row.check(isinstance(clean, float), str(clean))
        if isinstance(clean, str):
            return [row]
        chosen = list(DISTURBANCES.items())[: some(4, share)]
        for number, (name, disturb) in enumerate(chosen):
            words = train_words(work / f"run{number}", data, *SETTINGS)
            loss = final_loss(words, disturb, work)
            close = isinstance(loss, float) and loss <= (1 + TOLERANCE) * clean
            row.check(close, f"{name}: {loss} instead of {clean:.4f}")
            losses[name] = loss
    shown = [f"{name}: {loss:.4f}" for name, loss in losses.items() if isinstance(loss, float)]
    row.expected += f" ({clean:.4f}; {', '.join(shown)})"
    return [row]


def final_loss(words: list[str], disturb: Any, work: Path) -> float | str:
    """Return the held-out loss at the end of a run, or what it printed instead."""
    child = finish(disturbed(words, disturb), work / "log")
    if child.status:
        return child.last_line()
    out = Path(words[words.index("--out") + 1])
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["split"] == "held_out"]
    return float(losses[-1])


def disturbed(words: list[str], disturb: Any) -> Work:
    """Return the work of a run of which one step is made by `disturb`, the first time it comes."""
    build = pretrain.Pretraining.build

    def build_disturbed(training: Any, folder: Path) -> Any:
        parts = build(training, folder)
        calls = []

        def step(state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
            calls.append(1)
            if len(calls) == AT:
                return disturb(parts.step, state, batch)
            return parts.step(state, batch)

        return replace(parts, step=step) if disturb else parts

    def work(report: Report) -> None:
        kind: Any = pretrain.Pretraining
        kind.build = build_disturbed
        fit(parse(words, "train.py"))

    return work
