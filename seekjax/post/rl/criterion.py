"""The criterion of reinforcement: the policy loss on minibatches of a rollout."""

from typing import Any

import jax
import jax.numpy as jnp

from seekjax.config import GrpoConfig, Objective
from seekjax.post.rl.objective import Totals, policy_loss
from seekjax.train.loss import balance_loss, loads
from seekjax.train.score import log_probs
from seekjax.train.state import RunSpec, TrainState

Piece = dict[str, Any]  # a micro-batch of texts, as rl/updates.py cuts them


class GroupRelative:
    """A train.loss.Criterion on texts and their advantages."""

    def __init__(self, spec: RunSpec, grpo: GrpoConfig, objective: Objective):
        self.spec = spec
        self.grpo = grpo
        self.objective = objective

    def totals(self, batch: Piece) -> Totals:
        """Return the counts that sums over [A, B, ...] are divided by: of samples not left out."""
        mask_ABT = batch["mask"]
        tokens = jnp.maximum(mask_ABT.sum(), 1).astype(jnp.float32)
        sequences = jnp.maximum(mask_ABT.any(-1).sum(), 1).astype(jnp.float32)
        return Totals(tokens, sequences, float(self.grpo.max_new))

    def loss(
        self, params: Any, state: TrainState, piece: Piece, totals: Totals
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Return a micro-batch's share of the loss, and its metrics."""
        config = self.spec.config
        logp_BT, output = log_probs(
            self.spec.model,
            config,
            self.spec.weights(params, state.frozen),
            state.balance,
            piece,
            self.grpo.temperature,
        )
        # The first update of a rollout is on its own policy: the ratio is exactly 1.
        old_BT = piece["old"] if "old" in piece else jax.lax.stop_gradient(logp_BT)
        loss, sums = policy_loss(
            self.objective,
            logp_BT,
            old_BT,
            piece["log_prob"][:, 1:],
            piece.get("ref"),
            piece["advantage"],
            piece["mask"],
            totals,
        )
        balance = balance_loss(output) / totals.sequences

        metrics = {
            "loss": loss,
            "balance_loss": balance,
            "clip_low": sums.clip_low / totals.tokens,
            "clip_high": sums.clip_high / totals.tokens,
            "ratio": sums.ratio / totals.tokens,
            "log_ratio": sums.log_ratio / totals.tokens,
            "masked": sums.masked / totals.sequences,
            "maxima": {"gap": sums.gap},
            "experts": loads(output),
        }
        if sums.kl is not None:
            metrics["kl"] = sums.kl / totals.tokens
        return loss + config.train.balance_loss * balance, metrics

    def metrics(self, batch: Piece, totals: Totals) -> dict[str, jax.Array]:
        """Return the tokens that were trained on."""
        return {"tokens": jnp.asarray(totals.tokens)}
