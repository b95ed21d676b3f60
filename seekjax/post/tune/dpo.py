"""Direct preference optimisation as a stage of the loop (2305.18290): what people preferred, made
likelier than what they did not.

    # m = (log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected))
    L = -mean over pairs of log sigmoid(beta m)

log pi(answer) is the sum over its tokens, its end included. The reference is the weights at the
start. The two texts of a pair are neighbouring rows of a batch, so that no cut into micro-batches
parts them.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import Config
from seekjax.data import DataError
from seekjax.errors import need
from seekjax.post.plots import draw_figures
from seekjax.post.samples.pairs import Pairs, load_pairs, pair_batches
from seekjax.post.tune.sft import FineTuning
from seekjax.train.lora import make_plan
from seekjax.train.loss import balance_loss, loads
from seekjax.train.score import log_probs
from seekjax.train.state import RunSpec, TrainState
from seekjax.train.step import compile_train
from sharding.place import put_batch
from sharding.rules import sharding


class Margin(NamedTuple):
    """Of each pair [P]: how much likelier than by the reference an answer has become, in nats."""

    chosen: jax.Array
    rejected: jax.Array

    def loss(self, beta: float) -> jax.Array:
        """-log sigmoid(beta (chosen - rejected)), [P]."""
        return -jax.nn.log_sigmoid(beta * (self.chosen - self.rejected))


def margin(logp_BT: jax.Array, ref_BT: jax.Array, mask_BT: jax.Array) -> Margin:
    """From log-probabilities of rows chosen, rejected, chosen, rejected, ... over the tokens of the
    answers."""
    gain_B = jnp.where(mask_BT, logp_BT - ref_BT, 0).sum(-1)
    return Margin(gain_B[0::2], gain_B[1::2])


class Pairwise:
    """The criterion: train.loss.Criterion on batches {"tokens", "segments", "trained"} whose rows
    are pairs."""

    def __init__(self, plan: RunSpec):
        self.plan, self.beta = plan, plan.config.post.beta

    def totals(self, batch: dict[str, jax.Array]) -> jax.Array:
        """Pairs; those that only fill up a batch have no answer."""
        return jnp.maximum(batch["trained"][:, ::2].any(-1).sum(), 1).astype(jnp.float32)

    def figures(
        self, params, state: TrainState, piece: dict[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], Any]:
        """Sums over the pairs of a micro-batch, and the model's output."""
        config, model = self.plan.config, self.plan.model
        mask_BT, real_P = piece["trained"][:, 1:].astype(bool), piece["trained"][::2].any(-1)
        logp_BT, output = log_probs(
            model, config, self.plan.weights(params, state.frozen), state.balance, piece
        )
        reference = jax.lax.stop_gradient(
            self.plan.weights(state.frozen["reference"], state.frozen)
        )
        found = margin(
            logp_BT, log_probs(model, config, reference, state.balance, piece)[0], mask_BT
        )
        wins_P = (found.chosen > found.rejected) + 0.5 * (
            found.chosen == found.rejected
        )  # where nothing has moved yet, a coin
        sums = {
            "loss": found.loss(self.beta),
            "accuracy": wins_P,
            "margin": self.beta * (found.chosen - found.rejected),
            "reward_chosen": self.beta * found.chosen,
            "reward_rejected": self.beta * found.rejected,
        }
        return {name: jnp.where(real_P, x, 0).sum() for name, x in sums.items()}, output

    def loss(self, params, state: TrainState, piece: dict[str, jax.Array], totals: jax.Array):
        sums, output = self.figures(params, state, piece)
        means = {name: value / totals for name, value in sums.items()}
        balanced = balance_loss(output) / (2 * totals)
        return means["loss"] + self.plan.config.train.balance_loss * balanced, means | {
            "balance_loss": balanced,
            "experts": loads(output),
        }

    def metrics(self, batch: dict[str, jax.Array], totals: jax.Array) -> dict[str, jax.Array]:
        return {"pairs": totals, "tokens": batch["trained"].sum().astype(jnp.float32)}


class Preference(FineTuning):
    """The stage of `python train.py dpo`; see train.stage.Stage for the methods."""

    def __init__(self, config: Config):
        check(config)
        self.learn_form(config)
        self.corpus = load_pairs(config, self.form, self.tokenizer.pad)

    def about(self) -> list[str]:
        kinds = [
            f"{source.name} ({len(source.train):,} pairs, {len(source.held_out):,} held out)"
            for source in self.corpus.sources
        ]
        return self.said(", ".join(kinds))

    def open(self, folder: Path) -> None:
        config, train = self.config, self.config.train
        made_for = {"tokenizer": self.tokenizer.fingerprint(), "template": self.form.fingerprint()}
        self.batches = pair_batches(
            self.corpus,
            train.rows,
            train.seed,
            made_for | {"sequence": config.data.sequence},
            **self.process,
        )
        self.held_out = {
            source.name: self.rows_of(source.held_out)
            for source in self.corpus.sources
            if len(source.held_out)
        }
        self.plan, self.experts = make_plan(config, ("reference",)), None
        criterion, places = Pairwise(self.plan), self.plan.shardings()
        self.step = compile_train(self.plan, criterion)
        self.measure = jax.jit(
            lambda params, state, batch: (
                criterion.figures(params, state, batch)[0]
                | {"pairs": batch["trained"][::2].any(-1).sum()}
            ),
            in_shardings=(places.params, places, sharding("batch")),
            out_shardings=sharding(""),
        )
        self.form.chat.save(folder, jax.process_index() == 0)

    def rows_of(self, pairs: Pairs) -> list[dict[str, np.ndarray]]:
        """Batches of these pairs, of this process's share; the last is filled up with empty
        rows."""
        size, train = self.config.train.rows, self.config.train
        rows = [
            {name: x[side] for name, x in pairs[index].items()}
            for index in range(min(len(pairs), train.eval_batches * size // 2))
            for side in (0, 1)
        ]
        return self.shared(rows)

    def derive(self, metrics: dict[str, float]) -> dict[str, float]:
        return {}

    def describe(self, record: dict[str, Any]) -> str:
        return (
            f"loss {record['loss']:.3f}  prefers the chosen {record['accuracy']:.0%}  margin "
            f"{record['margin']:+.3f}"
        )

    def evaluate(self, state: TrainState) -> tuple[dict[str, float], str]:
        """Loss, accuracy and margin on held-out pairs; from the moving average of the weights,
        where one is kept."""
        params = state.params if state.ema is None else state.ema
        seen = [
            self.measure(params, state, put_batch(batch, "batch sequence"))
            for batches in self.held_out.values()
            for batch in batches
        ]
        if not seen:
            return {}, "nothing: data.held_out is 0, or there is a single prompt"
        sums = {name: sum(float(one[name]) for one in seen) for name in seen[0]}
        pairs = sums.pop("pairs")
        record = {name: value / pairs for name, value in sums.items()}
        return (
            record,
            f"loss {record['loss']:.3f}, prefers the chosen of {record['accuracy']:.0%} "
            f"of {pairs:.0f} pairs, margin {record['margin']:+.3f}",
        )

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        figures = {
            "loss": "loss (nats)",
            "accuracy": "prefers the chosen",
            "margin": "margin (nats)",
        }
        pictures = (
            [f"picture: {draw_figures(folder, 'preference.png', 'what it prefers', figures)}"]
            if jax.process_index() == 0
            else []
        )
        return [
            *pictures,
            f"checkpoint: {folder / 'checkpoints' / str(int(state.step))}",
            f"next: talk with it: seekjax chat {folder}",
        ]


def check(config: Config) -> None:
    """Raise ConfigError or DataError for settings that do not fit each other."""
    post, train = config.post, config.train
    micro = train.rows
    if config.init is None and config.data.tokenizer == "bpe":
        raise DataError(
            "preference tuning starts from a model: name the folder of a run or of a "
            "published checkpoint with --init."
        )
    need(post.beta > 0, f"post.beta is {post.beta}: it must be above 0.")
    need(
        micro % (2 * jax.process_count()) == 0,
        f"train.micro_batch (train.batch where that is 0) is {micro}: it must hold whole "
        "pairs, so make it a multiple "
        f"of {2 * jax.process_count()}.",
    )
    need(
        not config.data.workers,
        "data.workers is for pre-training's text: pairs are rendered in this process, set it to 0.",
    )
