"""Quantile balancing: each step sets the routing bias where every expert gets its share, instead of
moving it by a fixed amount.

Token i visits expert j if score_ij + b_j exceeds the token's cutoff c_i, the best biased score that
is not chosen. So expert j is visited by the tokens whose gap c_i - score_ij is below b_j, and a
share K / E of the tokens visits it if b_j is the K / E quantile of its gaps. A histogram of the
gaps can be summed over devices and micro-batches; its quantile is exact to the width of a bin.
"""

import jax
import jax.numpy as jnp
from jax import Array

from seekjax.config import ModelConfig
from seekjax.model.routing import by_group, group_scores, top_k, within_groups
from sharding.rules import local, mesh_axes
from sharding.vary import vary_like

BINS = 1000


def gap_histogram(
    score_BTE: Array,
    bias_E: Array,
    mask_BT: Array,
    model: ModelConfig,
) -> Array:
    """Count each expert's gaps over the unmasked tokens, [E, BINS].

    The bins cover [min b - 1, max b + 1], in which the gaps of scores between 0 and 1 lie without
    groups; others count in the first or the last bin.
    """
    gap_BTE = cutoffs(score_BTE, bias_E, model) - score_BTE
    low, width = _bins(bias_E)
    bin_BTE = jnp.floor((gap_BTE - low) / width)
    bin_BTE = jnp.clip(bin_BTE, 0, BINS - 1).astype(jnp.int32)

    # Each device counts its own tokens: left to itself the compiler gathers them for the scatter
    everyone = (*mesh_axes("batch"), *mesh_axes("sequence"))

    def body(bin_btE: Array, mask_bt: Array) -> Array:
        weight_btE = jnp.broadcast_to(mask_bt[..., None], bin_btE.shape).astype(jnp.float32)
        empty_EN = vary_like(jnp.zeros((model.experts, BINS), jnp.float32), weight_btE)
        counts_EN = empty_EN.at[jnp.arange(model.experts), bin_btE].add(weight_btE)
        return jax.lax.psum(counts_EN, everyone) if everyone else counts_EN

    token = "batch sequence"
    return local(body, (f"{token} -", token), "- -")(bin_BTE, mask_BT)


def cutoffs(score_BTE: Array, bias_E: Array, model: ModelConfig) -> Array:
    """Return the biased score that an expert must exceed for a token to visit it, [B, T, E].

    It is the best score that the token does not choose. An expert outside the token's groups must
    also lift its own group, by that group's score, above the last of the token's groups.
    """
    biased_BTE = jax.lax.stop_gradient(score_BTE + bias_E)
    allowed_BTE = within_groups(biased_BTE, model)
    best_BTK, _ = top_k(allowed_BTE, model.experts_per_token + 1)
    cutoff_BT1 = best_BTK[..., -1:]
    if model.groups_per_token == model.expert_groups:
        return jnp.broadcast_to(cutoff_BT1, biased_BTE.shape)

    # The score of the last of the token's groups, and what an expert's group has without the expert
    biased_BTGe = by_group(biased_BTE, model.expert_groups)
    group_BTG = group_scores(biased_BTGe, model)
    best_BTg, _ = top_k(group_BTG, model.groups_per_token)
    last_BT11 = best_BTg[..., -1:, None]
    rest_BTGe = jnp.zeros_like(biased_BTGe)
    if model.group_score == "top2":
        best_BTG2, _ = top_k(biased_BTGe, 2)
        first_BTG1, second_BTG1 = best_BTG2[..., :1], best_BTG2[..., 1:]
        rest_BTGe = jnp.where(biased_BTGe == first_BTG1, second_BTG1, first_BTG1)

    lifted_BTE = (last_BT11 - rest_BTGe).reshape(biased_BTE.shape)
    outside_BTE = jnp.isneginf(allowed_BTE)
    return jnp.where(outside_BTE, jnp.maximum(cutoff_BT1, lifted_BTE), cutoff_BT1)


def quantile_bias(bias_LE: Array, histogram_LEN: Array, share: float) -> Array:
    """Return the bias at which this share of the counted gaps lies below it, with mean 0.

    `bias_LE` is the bias of the histogram, with any axes in front. A histogram without a token
    leaves it as it is.
    """
    low_L1, width_L1 = _bins(bias_LE)
    below_LEN = jnp.cumsum(histogram_LEN, -1)
    tokens_LE = below_LEN[..., -1]
    target_LE1 = share * tokens_LE[..., None]

    # The quantile lies in the first bin that reaches the target: how far, by linear interpolation
    full_LE = (below_LEN < target_LE1).sum(-1)
    bin_LE1 = jnp.minimum(full_LE, BINS - 1)[..., None]
    inside_LE1 = jnp.take_along_axis(histogram_LEN, bin_LE1, -1)
    before_LE1 = jnp.take_along_axis(below_LEN, bin_LE1, -1) - inside_LE1
    part_LE1 = (target_LE1 - before_LE1) / jnp.maximum(inside_LE1, 1e-9)
    new_LE = low_L1 + width_L1 * (bin_LE1 + part_LE1)[..., 0]

    new_LE -= new_LE.mean(-1, keepdims=True)
    return jnp.where(tokens_LE > 0, new_LE, bias_LE)


def _bins(bias_LE: Array) -> tuple[Array, Array]:
    """Return where the bins begin, and the width of each."""
    low_L1 = bias_LE.min(-1, keepdims=True) - 1
    high_L1 = bias_LE.max(-1, keepdims=True) + 1
    return low_L1, (high_L1 - low_L1) / BINS
