"""Expert-specialised fine-tuning (ESFT, 2407.01906): train only the experts that a task uses, and
leave every other weight as it is.

Before the first step the samples are run through the model. The relevance R of an expert is its
share of all choices of its layer ("token", the paper's token selection ratio) or of all their gates
("gate", its average gate score, here normalised so that a layer's sum to 1). Of each layer the
smallest set with sum R >= post.expert_share is trained (equation 7); experts.json in the run's
folder says which.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seekjax.config import Config
from seekjax.errors import RunError
from seekjax.train.state import RunSpec, TrainState
from sharding.place import put_batch
from sharding.rules import sharding

if TYPE_CHECKING:
    from seekjax.post.tune.sft import FineTuning

FILE = "experts.json"
SAMPLE_TOKENS = 131_072  # that relevance is measured on, as in the paper
STACK = "expert_layers"


class Chosen(RunSpec):
    """A plan in which only some experts learn: the rest gets no gradient, no decay, and keeps its
    bits."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.chosen_LE: np.ndarray | None = None  # bool; known before the first step is traced
        whole = self.optimizer

        def update(grads, state, params):
            updates, state = whole.update(grads, state, params)
            return jax.tree.map(lambda x, mask: jnp.where(mask, x, 0), updates, self.mask()), state

        self.optimizer = optax.GradientTransformation(whole.init, update)

    def mask(self) -> Any:
        """For every weight whether it learns, in a shape that broadcasts to it."""

        def of(path, axes: str):
            names = axes.split()
            routed = path[0].key == STACK and names[:2] == ["layers", "experts"]
            return (
                self.chosen_LE.reshape(self.chosen_LE.shape + (1,) * (len(names) - 2))
                if routed
                else np.zeros((), bool)
            )

        return jax.tree_util.tree_map_with_path(of, self.axes["params"])

    def weights(self, params: Any, frozen: Any) -> Any:
        return jax.tree.map(
            lambda x, mask: (
                jnp.where(mask, x, jax.lax.stop_gradient(x))
                if mask.any()
                else jax.lax.stop_gradient(x)
            ),
            params,
            self.mask(),
        )


class Experts:
    """Chooses the experts of a run once, and knows them again when it is resumed."""

    def __init__(self, stage: FineTuning, folder: Path):
        self.stage, self.path = stage, folder / FILE
        post, self.plan = stage.config.post, stage.plan
        self.asked = {"share": post.expert_share, "score": post.expert_score}
        if self.path.exists():
            self.plan.chosen_LE = self._read()

    def choose(self, step: int, state: TrainState) -> None:
        """Before a run's first step, measure and write down; afterwards nothing. Raises RunError
        where the choice of a run that goes on is lost."""
        if self.plan.chosen_LE is not None:
            return
        if step:
            raise RunError(
                f"{self.path} is missing: without it the run cannot go on with the "
                "experts it trains; start again under another --out."
            )
        relevance_LE = self._measure(state)
        self.plan.chosen_LE = smallest(relevance_LE, self.asked["share"])
        if jax.process_index() == 0:
            chosen = [np.flatnonzero(row).tolist() for row in self.plan.chosen_LE]
            self.path.write_text(
                json.dumps(
                    self.asked
                    | {"experts": chosen, "relevance": np.round(relevance_LE, 6).tolist()}
                )
                + "\n"
            )
            print(
                f"learning: {sum(map(len, chosen))} of {self.plan.chosen_LE.size} "
                f"experts, {' '.join(str(len(row)) for row in chosen)} by layer "
                f"({self.path})"
            )

    def _measure(self, state: TrainState) -> np.ndarray:
        """Relevance of each expert over the first samples of training."""
        stage, config = self.stage, self.plan.config
        places = self.plan.shardings()
        score = jax.jit(
            partial(relevance, self.plan, self.asked["score"]),
            in_shardings=(places.params, places.balance, sharding("batch")),
            out_shardings=sharding(""),
        )
        samples, total_LE, tokens = stage.samples(), 0, 0
        while tokens < min(
            SAMPLE_TOKENS, config.train.steps * stage.tokens(0)
        ):  # a short run need not look further than it reads
            total_LE += np.asarray(
                score(state.params, state.balance, put_batch(next(samples), "batch sequence"))
            )
            tokens += (config.train.rows) * config.data.sequence
        return total_LE / total_LE.sum(-1, keepdims=True)

    def _read(self) -> np.ndarray:
        model = self.plan.config.model
        try:
            found = json.loads(self.path.read_text())
            chosen_LE = np.zeros((model.layers - model.dense_layers, model.experts), bool)
            for row, experts in zip(chosen_LE, found["experts"], strict=True):
                row[experts] = True
            before = {name: found[name] for name in self.asked}
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise RunError(
                f"{self.path} does not say which experts this run trains: restore it, or "
                "start again under another --out."
            ) from error
        if before != self.asked:
            raise RunError(
                f"{self.path} was chosen with {before}, and this run asks for "
                f"{self.asked}: restore that, or use another --out."
            )
        return chosen_LE


def relevance(
    plan: RunSpec, kind: str, params: Any, balance: Any, batch: dict[str, jax.Array]
) -> jax.Array:
    """How often the experts of each layer are chosen, or the sum of their gates, [L, E], over the
    tokens of a batch."""
    tokens_BX, segment_BX = batch["tokens"], batch["segments"]
    mask_BT = segment_BX[:, :-1] > 0
    seen = plan.model.apply(
        {"params": params, "balance": balance}, tokens_BX[:, :-1], segment_BX[:, :-1], mask_BT
    ).balance[STACK]
    if kind == "token":
        return seen["load_E"]
    chosen_LBTKE = seen["choice_BTK"][..., None] == jnp.arange(plan.config.model.experts)
    return jnp.where(chosen_LBTKE & mask_BT[..., None, None], seen["gate_BTK"][..., None], 0).sum(
        (1, 2, 3)
    )


def smallest(relevance_LE: np.ndarray, share: float) -> np.ndarray:
    """Bool [L, E]: of each layer the fewest experts whose relevance sums to the share, the most
    relevant first."""
    order_LE = np.argsort(-relevance_LE, axis=-1, kind="stable")
    before_LE = np.cumsum(np.take_along_axis(relevance_LE, order_LE, -1), -1) - np.take_along_axis(
        relevance_LE, order_LE, -1
    )
    chosen_LE = np.zeros(relevance_LE.shape, bool)
    np.put_along_axis(chosen_LE, order_LE, before_LE < share - 1e-9, -1)
    return chosen_LE
