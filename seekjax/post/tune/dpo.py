"""Direct preference optimisation (2305.18290): make preferred answers more likely than others.

    m = (log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected))
    L = -mean over pairs of log sigmoid(beta m)

log pi(answer) is the sum over its tokens, its end included. The reference is the initial weights.
The two texts of a pair are neighbouring rows of a batch, so that cutting it into micro-batches does
not separate them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seekjax.config import Config, DpoConfig
from seekjax.data import Corpus
from seekjax.data.batches import Batches
from seekjax.data.streams import ProcessBatches
from seekjax.errors import ConfigError, need
from seekjax.model.transformer import Output
from seekjax.post.plots import plot_preference
from seekjax.post.samples.batches import HeldOut, held_out_batches, load_format
from seekjax.post.samples.corpus import Row
from seekjax.post.samples.pairs import load_pairs, pair_batches
from seekjax.post.tune.report import closing_lines, data_lines
from seekjax.post.tune.sft import check_start
from seekjax.train.held_out import add_up
from seekjax.train.lora import make_spec
from seekjax.train.loss import balance_loss, loads
from seekjax.train.score import log_probs
from seekjax.train.source import BatchSource, process_share
from seekjax.train.state import RunSpec, TrainState
from seekjax.train.step import compile_gradient, compile_train
from seekjax.train.training import Parts
from sharding.place import put_batch
from sharding.rules import sharding

Batch = dict[str, jax.Array]


class Margin(NamedTuple):
    """Log-probability gained on the reference by the answers of each pair [P], in nats."""

    chosen: jax.Array
    rejected: jax.Array

    def loss(self, beta: float) -> jax.Array:
        """Return -log sigmoid(beta (chosen - rejected)), [P]."""
        return -jax.nn.log_sigmoid(beta * (self.chosen - self.rejected))


def margin(logp_BT: jax.Array, ref_BT: jax.Array, mask_BT: jax.Array) -> Margin:
    """Return the gains of rows chosen, rejected, chosen, rejected, ... over the answers' tokens."""
    gain_B = jnp.where(mask_BT, logp_BT - ref_BT, 0).sum(-1)
    return Margin(gain_B[0::2], gain_B[1::2])


class Pairwise:
    """A train.loss.Criterion on {"tokens", "segments", "trained"} whose rows are pairs."""

    def __init__(self, spec: RunSpec, beta: float):
        self.spec = spec
        self.beta = beta

    def totals(self, batch: Batch) -> jax.Array:
        """Return the number of pairs; those that only fill up a batch have no answer."""
        real_AP = batch["trained"][:, ::2].any(-1)
        return jnp.maximum(real_AP.sum(), 1).astype(jnp.float32)

    def figures(
        self, params: Any, state: TrainState, piece: Batch
    ) -> tuple[dict[str, jax.Array], Output]:
        """Return sums over the pairs of a micro-batch, and the model's output."""
        spec = self.spec
        weights = spec.weights(params, state.frozen)
        reference = spec.weights(state.frozen["reference"], state.frozen)
        reference = jax.lax.stop_gradient(reference)

        # Log-probabilities of the answers' tokens
        logp_BT, output = log_probs(spec.model, spec.config, weights, state.balance, piece)
        ref_BT, _ = log_probs(spec.model, spec.config, reference, state.balance, piece)
        mask_BT = piece["trained"][:, 1:].astype(bool)
        gain = margin(logp_BT, ref_BT, mask_BT)

        # A tie, as before the first step, counts as half.
        wins_P = (gain.chosen > gain.rejected) + 0.5 * (gain.chosen == gain.rejected)
        values = {
            "loss": gain.loss(self.beta),
            "accuracy": wins_P,
            "margin": self.beta * (gain.chosen - gain.rejected),
            "reward_chosen": self.beta * gain.chosen,
            "reward_rejected": self.beta * gain.rejected,
        }
        real_P = piece["trained"][::2].any(-1)
        sums = {}
        for name, x_P in values.items():
            sums[name] = jnp.where(real_P, x_P, 0).sum()
        return sums, output

    def loss(
        self, params: Any, state: TrainState, piece: Batch, totals: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Return a micro-batch's share of the loss, and its metrics."""
        sums, output = self.figures(params, state, piece)
        means = {name: value / totals for name, value in sums.items()}
        balance = balance_loss(output) / (2 * totals)
        loss = means["loss"] + self.spec.config.train.balance_loss * balance
        return loss, means | {"balance_loss": balance, "experts": loads(output)}

    def metrics(self, batch: Batch, totals: jax.Array) -> dict[str, jax.Array]:
        """Return how many pairs and tokens of answers a step has."""
        tokens = batch["trained"].sum()
        return {"pairs": totals, "tokens": tokens.astype(jnp.float32)}


class Preference:
    """The train.training.Training of `python train.py dpo`."""

    shared_position = False  # each process reads its own share

    def __init__(self, config: Config):
        self.dpo = check(config)
        self.config = config
        self.chat_format = load_format(config, config.init, self.dpo)
        self.tokenizer = self.chat_format.tokenizer
        self.corpus = load_pairs(self.dpo, config.data, self.chat_format)

    def manifest(self) -> dict[str, Any]:
        """Return what exactly is read, for data.json."""
        return self.corpus.manifest()

    def build(self, folder: Path) -> Parts:
        """Compile on the mesh in use."""
        config = self.config
        fingerprint = {
            "tokenizer": self.tokenizer.fingerprint(),
            "template": self.chat_format.fingerprint(),
            "sequence": config.data.sequence,
        }
        rows, seed = config.train.rows, config.train.seed

        def open_stream(number: int, count: int) -> Batches:
            return pair_batches(self.corpus, rows, seed, fingerprint, number, count)

        batches = ProcessBatches(open_stream, rows, **process_share())
        spec = make_spec(config, ("reference",))
        criterion = Pairwise(spec, self.dpo.beta)

        self.chat_format.chat.save(folder, jax.process_index() == 0)
        return Parts(
            spec=spec,
            source=BatchSource(config, batches),
            step=compile_train(spec, criterion),
            evaluate=HeldOutPairs(self.held_out(), compile_figures(criterion)),
            report=DpoReport(spec, self.corpus, self.tokenizer.size),
            gradient=compile_gradient(spec, lambda: criterion),
        )

    def held_out(self) -> HeldOut:
        """Return the held-out pairs of each source in batches, of this process's rows."""
        train = self.config.train

        def rows_of(pairs: Sequence[Row]) -> list[Row]:
            rows = []
            count = min(len(pairs), train.eval_rows // 2)
            for index in range(count):
                pair = pairs[index]
                for side in (0, 1):
                    rows.append({name: x[side] for name, x in pair.items()})
            return rows

        return held_out_batches(self.corpus, rows_of, train.rows, self.tokenizer.pad)


def compile_figures(criterion: Pairwise) -> Callable[..., dict[str, jax.Array]]:
    """Return the jitted (params, state, batch) -> sums over the pairs of a batch."""

    def figures(params: Any, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        sums, _ = criterion.figures(params, state, batch)
        real_P = batch["trained"][::2].any(-1)
        return sums | {"pairs": real_P.sum()}

    places = criterion.spec.shardings()
    return jax.jit(
        figures,
        in_shardings=(places.params, places, sharding("batch")),
        out_shardings=sharding(""),
    )


class HeldOutPairs:
    """Loss, accuracy and margin on held-out pairs."""

    def __init__(self, held_out: HeldOut, measure: Callable[..., dict[str, jax.Array]]):
        self.held_out = held_out
        self.measure = measure

    def __call__(self, state: TrainState) -> tuple[dict[str, float], str]:
        """Return the held-out figures, and a sentence of them."""
        figures = []
        for batches in self.held_out.values():
            for batch in batches:
                placed = put_batch(batch, "batch")
                figures.append(self.measure(state.averaged, state, placed))
        if not figures:
            return {}, ""

        sums = add_up(figures)
        pairs = sums.pop("pairs")
        record = {name: value / pairs for name, value in sums.items()}
        return record, (
            f"loss {record['loss']:.3f}, prefers the chosen of {record['accuracy']:.0%} of "
            f"{pairs:.0f} pairs, margin {record['margin']:+.3f}"
        )


class DpoReport:
    """The words of a run of preference tuning."""

    def __init__(self, spec: RunSpec, corpus: Corpus, token_ids: int):
        self.spec = spec
        self.corpus = corpus
        self.token_ids = token_ids

    def header(self) -> list[str]:
        """Return the lines that state what will be read and trained."""
        sequence = self.spec.config.data.sequence
        data = data_lines(self.corpus, "pairs", sequence, self.token_ids)
        return [*data, *self.spec.trained()]

    def extra_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return nothing: the metrics are complete."""
        return {}

    def progress(self, record: dict[str, Any]) -> str:
        """Return what the progress line shows of a step."""
        return (
            f"loss {record['loss']:.3f}  prefers the chosen {record['accuracy']:.0%}  margin "
            f"{record['margin']:+.3f}"
        )

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        """Return the closing lines of a run; draws its plot into the folder."""
        lines = []
        if jax.process_index() == 0:
            lines.append(f"picture: {plot_preference(folder)}")
        return [*lines, *closing_lines(state, folder)]


def check(config: Config) -> DpoConfig:
    """Return the settings. Raises ConfigError or DataError if they do not fit each other."""
    dpo, rows = config.dpo, config.train.rows
    if dpo is None:
        raise ConfigError("preference tuning needs settings: dpo is None.")
    check_start(config, "preference tuning")
    least = 2 * jax.process_count()
    need(
        rows % least == 0,
        f"train.micro_batch (train.batch where that is 0) is {rows}: it must hold whole pairs, so "
        f"make it a multiple of {least}.",
    )
    return dpo
