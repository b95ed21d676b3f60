"""Expert-specialised fine-tuning (ESFT, 2407.01906): train only the experts that a task uses.

Before the first step the samples are run through the model. The relevance R of an expert is its
share of all choices of its layer ("token", the paper's token selection ratio) or of all their gates
("gate", its average gate score, here normalised so that a layer's sum to 1). Of each layer the
smallest set with sum R >= sft.expert_share is trained (equation 7). experts.json in the run's
folder records the choice.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import ModelConfig, SftConfig
from seekjax.errors import RunError, need
from seekjax.train.lora import EXPERT_STACK, Chosen
from seekjax.train.source import BatchSource
from seekjax.train.state import RunSpec, TrainState
from sharding.place import put_batch
from sharding.rules import sharding

FILE = "experts.json"
SAMPLE_TOKENS = 131_072  # that relevance is measured on, as in the paper

MicroBatches = Iterator[dict[str, np.ndarray]]


class ChoosingSource(BatchSource):
    """Batches of a run that trains chosen experts, which are chosen before the first batch."""

    def __init__(
        self,
        spec: Chosen,
        sft: SftConfig,
        open_batches: Callable[[], Any],
        folder: Path,
    ):
        """Raises RunError if the folder has a choice that is not this run's."""
        super().__init__(spec.config, open_batches())
        self.spec = spec
        self.open_batches = open_batches
        self.path = folder / FILE
        self.settings = {"share": sft.expert_share, "score": sft.expert_score}
        if self.path.exists():
            spec.choose(read_choice(self.path, self.settings, spec.config.model))

    def batch(self, step: int, state: TrainState) -> dict[str, jax.Array]:
        """Return the batch of a step; before the first one, choose the experts.

        Raises RunError if the choice of a resumed run is lost.
        """
        if not self.spec.is_chosen:
            need(
                step == 0,
                f"{self.path} is missing: without it the run cannot go on with the experts it "
                "trains; start again under another --out.",
                RunError,
            )
            self.choose(state)
        return super().batch(step, state)

    def choose(self, state: TrainState) -> None:
        """Measure, choose, and write the choice down."""
        # A short run need not read more than it trains on.
        train = self.spec.config.train
        limit = min(SAMPLE_TOKENS, train.steps * self.tokens(0))
        relevance_LE = measure_relevance(
            self.spec, self.settings["score"], state, self.open_batches(), limit
        )
        chosen_LE = smallest_sets(relevance_LE, self.settings["share"])
        self.spec.choose(chosen_LE)
        if jax.process_index() == 0:
            write_choice(self.path, self.settings, chosen_LE, relevance_LE)


def measure_relevance(
    spec: RunSpec, kind: str, state: TrainState, batches: MicroBatches, limit: int
) -> np.ndarray:
    """Return the relevance of each expert over the first `limit` tokens, [L, E]."""
    places, config = spec.shardings(), spec.config
    measure = jax.jit(
        partial(relevance, spec, kind),
        in_shardings=(places.params, places.balance, sharding("batch")),
        out_shardings=sharding(""),
    )
    measured, tokens = [], 0
    while tokens < limit:
        batch = put_batch(next(batches), "batch")
        measured.append(np.asarray(measure(state.params, state.balance, batch)))
        tokens += config.train.rows * config.data.sequence
    total_LE = np.asarray(sum(measured))
    return total_LE / total_LE.sum(-1, keepdims=True)


def relevance(
    spec: RunSpec, kind: str, params: Any, balance: Any, batch: dict[str, jax.Array]
) -> jax.Array:
    """Return how often each expert is chosen, or the sum of its gates, over a batch, [L, E]."""
    tokens_BX, segment_BX = batch["tokens"], batch["segments"]
    mask_BT = segment_BX[:, :-1] > 0
    output: Any = spec.model.apply(
        {"params": params, "balance": balance},
        tokens_BX[:, :-1],
        segment_BX[:, :-1],
        mask_BT,
    )
    routing = output.balance[EXPERT_STACK]
    if kind == "token":
        return routing["load_E"]

    experts_E = jnp.arange(spec.config.model.experts)
    chosen_LBTKE = routing["choice_BTK"][..., None] == experts_E
    counted_LBTKE = chosen_LBTKE & mask_BT[..., None, None]
    gate_LBTK1 = routing["gate_BTK"][..., None]
    return jnp.where(counted_LBTKE, gate_LBTK1, 0).sum((1, 2, 3))


def smallest_sets(relevance_LE: np.ndarray, share: float) -> np.ndarray:
    """Return bool [L, E]: of each layer the fewest experts whose relevance sums to the share."""
    order_LE = np.argsort(-relevance_LE, axis=-1, kind="stable")
    sorted_LE = np.take_along_axis(relevance_LE, order_LE, -1)
    before_LE = np.cumsum(sorted_LE, -1) - sorted_LE

    chosen_LE = np.zeros(relevance_LE.shape, bool)
    np.put_along_axis(chosen_LE, order_LE, before_LE < share - 1e-9, -1)
    return chosen_LE


def write_choice(
    path: Path, settings: dict[str, Any], chosen_LE: np.ndarray, relevance_LE: np.ndarray
) -> None:
    """Write the choice of a run, and print a line on it."""
    experts = [np.flatnonzero(row).tolist() for row in chosen_LE]
    rounded = np.round(relevance_LE, 6).tolist()
    record = settings | {"experts": experts, "relevance": rounded}
    path.write_text(json.dumps(record) + "\n")

    by_layer = [str(len(row)) for row in experts]
    print(
        f"learning: {chosen_LE.sum()} of {chosen_LE.size} experts, {' '.join(by_layer)} by layer "
        f"({path})"
    )


def read_choice(path: Path, settings: dict[str, Any], model: ModelConfig) -> np.ndarray:
    """Return the choice of a run that goes on, bool [L, E].

    Raises RunError if the file is damaged, or was made with other settings.
    """
    chosen_LE = np.zeros((model.layers - model.dense_layers, model.experts), bool)
    try:
        record = json.loads(path.read_text())
        for row, experts in zip(chosen_LE, record["experts"], strict=True):
            row[experts] = True
        before = {name: record[name] for name in settings}

    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise RunError(
            f"{path} does not say which experts this run trains: restore it, or start again under "
            "another --out."
        ) from error
    need(
        before == settings,
        f"{path} was chosen with {before}, and this run asks for {settings}: restore that, or use "
        "another --out.",
        RunError,
    )
    return chosen_LE
