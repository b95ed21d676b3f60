"""What training minimises: next-token and multi-token cross entropy, and the sequence-wise balance
loss (V3 equations 17-25)."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from seekjax.config import Config
from seekjax.kernels.cross_entropy import nll_chunked, nll_sum
from seekjax.model.mtp import ahead
from seekjax.model.transformer import Output, Transformer
from seekjax.train.schedule import mtp_weight
from seekjax.train.state import RunSpec, TrainState
from sharding.rules import local, mesh_axes


class Criterion(Protocol):
    """What a kind of training minimises. Nothing in it depends on how a step's sequences are cut
    into micro-batches."""

    def totals(self, batch: dict[str, jax.Array]) -> Any:
        """What to divide sums by, from all micro-batches of a step, [A, B, ...] each."""

    def loss(
        self, params, state, piece: dict[str, jax.Array], totals: Any
    ) -> tuple[jax.Array, dict]:
        """A micro-batch's share of the loss, and what to report of it: sums, "experts" {name:
        {"load_E", "dropped"}}, "maxima" (optional)."""

    def metrics(self, batch: dict[str, jax.Array], totals: Any) -> dict[str, jax.Array]:
        """Further figures of the step."""


class Totals(NamedTuple):
    """Counts over the whole batch, all micro-batches and devices: what sums are divided by, so that
    splitting it changes nothing."""

    tokens: jax.Array
    sequences: int


def target_mask(batch: dict[str, jax.Array], by: int, mask_documents: bool) -> jax.Array:
    """Which of the first X - 1 positions have a target `by` positions ahead, [B, X - 1]: in the
    same document, if documents are masked, and among the tokens that are "trained" on, if the batch
    {"segments", "trained"?} [B, X] says so.
    """
    segment_BX = batch["segments"]
    T = segment_BX.shape[1] - 1
    here_BT, there_BT = segment_BX[:, :T], ahead(segment_BX, by, T)
    mask_BT = (here_BT > 0) & ((there_BT == here_BT) if mask_documents else (there_BT > 0))
    return mask_BT & ahead(batch["trained"], by, T) if "trained" in batch else mask_BT


def cross_entropy(
    hidden_BTD: jax.Array, head_DV: jax.Array, target_BT: jax.Array, mask_BT: jax.Array, chunk: int
) -> jax.Array:
    """Sum of -log p(target) over the unmasked positions in float32, each device on its own tokens
    and vocabulary.

    Logits are held for some rows and at most `chunk` words at a time; a vocabulary that fits in one
    chunk needs a matrix product less.
    """
    axes, everyone = mesh_axes("vocab"), mesh_axes("batch")

    def body(hidden_btD, head_Dv, target_bt, mask_bt):
        hidden_mD, target_m, mask_m = (
            hidden_btD.reshape(-1, hidden_btD.shape[-1]),
            target_bt.reshape(-1),
            mask_bt.reshape(-1),
        )
        if head_Dv.shape[1] <= chunk:
            total = nll_sum(hidden_mD, head_Dv, target_m, mask_m, axes)
        else:
            total = jnp.where(
                mask_m, nll_chunked(hidden_mD, head_Dv, target_m, axes, chunk=chunk), 0
            ).sum()
        return jax.lax.psum(total, everyone) if everyone else total

    token = "batch sequence"
    return local(body, (f"{token} -", "- vocab", token, token), "")(
        hidden_BTD, head_DV, target_BT, mask_BT
    )


def forward(
    model: Transformer, config: Config, params, balance, batch: dict[str, jax.Array], mtp: bool
) -> tuple[Output, jax.Array]:
    """The model on a batch {"tokens", "segments"} [B, T + 1], and the summed cross entropy of each
    prediction depth, [1 + mtp_depth]."""
    tokens_BX, segment_BX = batch["tokens"], batch["segments"]
    T, masked = tokens_BX.shape[1] - 1, config.data.mask_documents
    output = model.apply(
        {"params": params, "balance": balance},
        tokens_BX[:, :T],
        segment_BX[:, :T] if masked else None,
        segment_BX[:, :T] > 0,
        tokens_BX if mtp else None,
    )
    sums = []
    for by, hidden_BTD in enumerate((output.hidden_BTD, *output.mtp_BTD), 1):
        target_BT, mask_BT = ahead(tokens_BX, by, T), target_mask(batch, by, masked)
        sums.append(
            cross_entropy(hidden_BTD, output.head_DV, target_BT, mask_BT, config.kernel.vocab_chunk)
        )
    return output, jnp.stack(sums)


class NextToken:
    """L = CE + lambda / depth sum_k CE_k + alpha sum_layers balance (V3 equations 17-25), each CE
    over the same main targets (equation 24 divides by T), the balance loss over the sequences.
    Batches are {"tokens", "segments", "trained"?} [A, B, T + 1].
    """

    def __init__(self, plan: RunSpec, bytes_V: jax.Array):
        self.plan, self.bytes_V, self.mtp_weight = (
            plan,
            jnp.asarray(bytes_V),
            mtp_weight(plan.config),
        )

    def mask(self, batch: dict[str, jax.Array]) -> jax.Array:
        return jax.vmap(lambda piece: target_mask(piece, 1, self.plan.config.data.mask_documents))(
            batch
        )

    def totals(self, batch: dict[str, jax.Array]) -> Totals:
        micro, sequences = batch["tokens"].shape[:2]
        return Totals(jnp.maximum(self.mask(batch).sum(), 1).astype(jnp.float32), micro * sequences)

    def loss(self, params, state: TrainState, piece: dict[str, jax.Array], totals: Totals):
        config = self.plan.config
        output, nll = forward(
            self.plan.model,
            config,
            self.plan.weights(params, state.frozen),
            state.balance,
            piece,
            mtp=True,
        )
        ce = nll / totals.tokens
        mtp = ce[1:].mean() if config.model.mtp_depth else jnp.zeros(())
        balanced = balance_loss(output) / totals.sequences
        total = ce[0] + self.mtp_weight(state.step) * mtp + config.train.balance_loss * balanced
        return total, {
            "loss": ce[0],
            "mtp_loss": mtp,
            "balance_loss": balanced,
            "experts": loads(output),
        }

    def metrics(self, batch: dict[str, jax.Array], totals: Totals) -> dict[str, jax.Array]:
        size = jnp.where(self.mask(batch), self.bytes_V[batch["tokens"][..., 1:]], 0).sum()
        return {"tokens": totals.tokens, "bytes": size}


def balance_loss(output: Output) -> jax.Array:
    """The sequence-wise balance loss of all layers, summed over sequences."""
    return sum((seen["balance_loss"].sum() for seen in output.balance.values()), jnp.zeros(()))


def loads(output: Output) -> dict[str, dict[str, jax.Array]]:
    """What the balance bias and the report need to know of the experts."""
    return {
        name: {"load_E": seen["load_E"], "dropped": seen["dropped"]}
        for name, seen in output.balance.items()
    }
