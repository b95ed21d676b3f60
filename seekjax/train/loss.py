"""What training minimises: next-token and multi-token cross entropy, and the sequence-wise balance loss (V3 equations 17-25)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seekjax.config import Config
from seekjax.kernels.cross_entropy import nll_chunked, nll_sum
from seekjax.model.mtp import ahead
from seekjax.model.transformer import Output, Transformer
from sharding.rules import local, mesh_axes


class Totals(NamedTuple):
    """Counts over the whole batch, all micro-batches and devices: what sums are divided by, so that splitting it changes nothing."""

    tokens: jax.Array
    sequences: int


def target_mask(segment_BX: jax.Array, by: int, mask_documents: bool) -> jax.Array:
    """Which of the first X - 1 positions have a target `by` positions ahead (in the same document, if documents are masked); [B, X - 1]."""
    T = segment_BX.shape[1] - 1
    here_BT, there_BT = segment_BX[:, :T], ahead(segment_BX, by, T)
    return (here_BT > 0) & ((there_BT == here_BT) if mask_documents else (there_BT > 0))


def cross_entropy(hidden_BTD: jax.Array, head_DV: jax.Array, target_BT: jax.Array, mask_BT: jax.Array, chunk: int) -> jax.Array:
    """Sum of -log p(target) over the unmasked positions in float32, each device on its own tokens and vocabulary.

    Logits are held for some rows and at most `chunk` words at a time; a vocabulary that fits in one chunk needs a matrix product less.
    """
    axes, everyone = mesh_axes("vocab"), mesh_axes("batch")

    def body(hidden_btD, head_Dv, target_bt, mask_bt):
        hidden_mD, target_m, mask_m = hidden_btD.reshape(-1, hidden_btD.shape[-1]), target_bt.reshape(-1), mask_bt.reshape(-1)
        if head_Dv.shape[1] <= chunk:
            total = nll_sum(hidden_mD, head_Dv, target_m, mask_m, axes)
        else:
            total = jnp.where(mask_m, nll_chunked(hidden_mD, head_Dv, target_m, axes, chunk=chunk), 0).sum()
        return jax.lax.psum(total, everyone) if everyone else total

    token = "batch sequence"
    return local(body, (f"{token} -", "- vocab", token, token), "")(hidden_BTD, head_DV, target_BT, mask_BT)


def forward(model: Transformer, config: Config, params, balance, batch: dict[str, jax.Array], mtp: bool) -> tuple[Output, jax.Array]:
    """The model on a batch {"tokens", "segments"} [B, T + 1], and the summed cross entropy of each prediction depth, [1 + mtp_depth]."""
    tokens_BX, segment_BX = batch["tokens"], batch["segments"]
    T, masked = tokens_BX.shape[1] - 1, config.data.mask_documents
    output = model.apply({"params": params, "balance": balance}, tokens_BX[:, :T], segment_BX[:, :T] if masked else None,
                         segment_BX[:, :T] > 0, tokens_BX if mtp else None)
    sums = []
    for by, hidden_BTD in enumerate((output.hidden_BTD, *output.mtp_BTD), 1):
        target_BT, mask_BT = ahead(tokens_BX, by, T), target_mask(segment_BX, by, masked)
        sums.append(cross_entropy(hidden_BTD, output.head_DV, target_BT, mask_BT, config.kernel.vocab_chunk))
    return output, jnp.stack(sums)


def loss(model: Transformer, config: Config, params, balance, batch, totals: Totals, mtp_weight: jax.Array):
    """This micro-batch's share of L = CE + lambda / depth sum_k CE_k + alpha sum_layers balance, and what to report of it.

    Every CE is divided by the number of main targets (V3 equation 24 divides by T), the balance loss by the number of sequences.
    """
    output, nll = forward(model, config, params, balance, batch, mtp=True)
    ce = nll / totals.tokens
    balanced = sum(seen["balance_loss"].sum() for seen in output.balance.values()) / totals.sequences
    mtp = ce[1:].mean() if config.model.mtp_depth else jnp.zeros(())
    total = ce[0] + mtp_weight * mtp + config.train.balance_loss * balanced
    seen = {name: {"load_E": seen["load_E"], "dropped": seen["dropped"]} for name, seen in output.balance.items()}
    return total, {"loss": ce[0], "mtp_loss": mtp, "balance_loss": balanced, "experts": seen}
