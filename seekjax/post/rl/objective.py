"""What reinforcement maximises: group-relative advantages, ratios of probabilities, clipped
surrogates and the divergence from a reference.

Axes beside the model's: P prompts, G samples of one prompt (a group); B = P * G sequences, T
completion tokens. pi is the policy that learns, pi_old the same trainer's at the rollout,
pi_sampler what the sampler says it drew with, pi_ref the reference. `logp` are log-probabilities of
the sampled tokens. The named settings, with their papers, are in
seekjax/config/recipes.py.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from seekjax.config import Objective

# nats: beyond e^20 a ratio is noise, and e^89 would overflow float32 and turn a zero advantage into
# NaN
FARTHEST = 20.0


class Totals(NamedTuple):
    """What describes the whole minibatch, all micro-batches and devices: sums are divided by it, so
    that splitting changes nothing.
    """

    tokens: jax.Array | float  # unmasked tokens
    sequences: jax.Array | float
    length: float  # tokens of the longest completion allowed, the constant of Dr. GRPO


class Metrics(NamedTuple):
    """Sums over the unmasked tokens of a micro-batch; shares and means are these over `tokens`."""

    tokens: jax.Array
    # tokens whose ratio is held at the lower bound, and so teach nothing (for CISPO: are weighted
    # by the bound)
    clip_low: jax.Array
    clip_high: jax.Array
    ratio: jax.Array
    log_ratio: jax.Array  # log pi / pi_old
    kl: jax.Array | None  # k3 estimate of KL(pi || pi_ref); None without a reference
    masked: jax.Array  # sequences left out by mask_ratio
    gap: jax.Array  # the largest |log pi_old / pi_sampler|: no sum


@partial(jax.jit, static_argnames="how")
def advantages(
    reward_PG: jax.Array, valid_PG: jax.Array, how: Literal["standardised", "centred"]
) -> jax.Array:
    """How much better each sample is than its group: r - mean, and over std + 1e-6 if standardised;
    float32 [P, G].

    Samples that are not valid, or whose reward is not finite (the reward function failed), count in
    no mean and get 0. A group whose rewards are all equal gets exactly 0. DeepSeekMath (2402.03300,
    4.1.2) writes std without saying which: n - 1 here, as in the public trainers.
    """
    reward_PG = reward_PG.astype(jnp.float32)
    valid_PG = valid_PG & jnp.isfinite(reward_PG)
    count_P1 = valid_PG.sum(1, keepdims=True)
    low_P1 = jnp.where(valid_PG, reward_PG, jnp.inf).min(1, keepdims=True)
    above_PG = jnp.where(
        valid_PG, reward_PG - low_P1, 0
    )  # exactly 0 where all are equal, which reward - mean is not
    centred_PG = jnp.where(
        valid_PG, above_PG - above_PG.sum(1, keepdims=True) / jnp.maximum(count_P1, 1), 0
    )
    if how == "centred":
        return centred_PG
    std_P1 = jnp.sqrt((centred_PG**2).sum(1, keepdims=True) / jnp.maximum(count_P1 - 1, 1))
    return centred_PG / (std_P1 + 1e-6)


def log_ratio(above: jax.Array, below: jax.Array) -> jax.Array:
    """Above - below, as far as exp of it is of use."""
    return jnp.clip(above - below, -FARTHEST, FARTHEST)


def kl_estimate(
    form: Literal["k1", "k2", "k3", "unbiased"], logp: jax.Array, ref: jax.Array, old: jax.Array
) -> jax.Array:
    """KL(pi || pi_ref) from one token drawn by pi_old, elementwise; what its gradient is on average
    depends on the form.

    k1        log pi/ref                        right value if pi = pi_old; its gradient is zero on
    average: it teaches nothing k2        (log pi/ref)^2 / 2                biased value; exact
    gradient if pi = pi_old k3        ref/pi - log ref/pi - 1           right value if pi = pi_old;
    its gradient is that of KL(ref || pi) (DeepSeekMath equation 4) unbiased  pi/pi_old (ref/pi -
    log ref/pi - 1)   right value and exact gradient for every pi_old (DeepSeek-V3.2, 2512.02556,
    3.1)
    """
    away = log_ratio(logp, ref)
    if form == "k1":
        return away
    if form == "k2":
        return away**2 / 2
    k3 = jnp.expm1(-away) + away
    if form == "k3":
        return k3
    if form == "unbiased":
        return jnp.exp(log_ratio(logp, stop_gradient(old))) * k3
    raise ValueError(f"unknown form of the KL estimate {form!r}: choose k1, k2, k3 or unbiased")


def surrogate(
    objective: Objective, ratio_BT: jax.Array, logp_BT: jax.Array, advantage_B1: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What to maximise at every token, and which tokens the lower and the upper bound hold."""
    low, high = 1 - objective.clip_low, 1 + objective.clip_high
    below_BT, above_BT = ratio_BT < low, ratio_BT > high
    if objective.surrogate == "cispo":
        return (
            stop_gradient(jnp.clip(ratio_BT, low, high)) * advantage_B1 * logp_BT,
            below_BT,
            above_BT,
        )
    # min(r A, clip(r) A): only the bound that the advantage pushes towards matters.
    held_BT = jnp.where(advantage_B1 < 0, jnp.maximum(ratio_BT, low), jnp.minimum(ratio_BT, high))
    return held_BT * advantage_B1, below_BT & (advantage_B1 < 0), above_BT & (advantage_B1 > 0)


def policy_loss(
    objective: Objective, logp_BT, old_BT, sampler_BT, ref_BT, advantage_B, mask_BT, totals: Totals
) -> tuple[jax.Array, Metrics]:
    """This micro-batch's share of the loss of the whole minibatch, -(surrogate M - kl * KL)
    averaged, and what to report of it.

    Only `logp_BT` carries a gradient. `ref_BT` may be None where objective.kl is 0. Where mask_BT
    is False the arrays may hold anything. M, V3.2's mask, drops the surrogate of a sequence and
    keeps its divergence, as the paper writes it; the sampler's correction weighs both, being a
    correction of what they are expectations over. Raises ValueError if a reference is needed and
    missing.
    """
    if objective.kl and ref_BT is None:
        raise ValueError(
            f"objective.kl is {objective.kl}: it needs log-probabilities of a reference "
            "model; give them or set it to 0"
        )
    logp_BT, old_BT, sampler_BT, ref_BT = (
        None if x_BT is None else jnp.where(mask_BT, x_BT, 0).astype(jnp.float32)
        for x_BT in (logp_BT, old_BT, sampler_BT, ref_BT)
    )
    old_BT, sampler_BT, ref_BT = stop_gradient((old_BT, sampler_BT, ref_BT))
    advantage_B1, length_B = stop_gradient(advantage_B)[:, None], jnp.maximum(mask_BT.sum(1), 1)

    away_BT = log_ratio(logp_BT, old_BT)
    # One number a sequence, and every token's own gradient: their mean is the gradient of GSPO's
    # s_i (2507.18071, section 4.3).
    center_BT = (
        away_BT
        if objective.ratio == "token"
        else stop_gradient(away_BT.sum(1) / length_B)[:, None] + away_BT - stop_gradient(away_BT)
    )
    ratio_BT = jnp.exp(center_BT)
    value_BT, below_BT, above_BT = surrogate(objective, ratio_BT, logp_BT, advantage_B1)

    left_out_B = jnp.zeros(advantage_B.shape, bool)
    if objective.mask_ratio:
        left_out_B = (advantage_B < 0) & (
            stop_gradient(sampler_BT - logp_BT).sum(1) / length_B > objective.mask_ratio
        )
    value_BT = jnp.where(left_out_B[:, None], 0, value_BT)
    if objective.kl:
        value_BT -= objective.kl * kl_estimate(objective.kl_form, logp_BT, ref_BT, old_BT)
    if objective.truncate:
        value_BT *= jnp.minimum(jnp.exp(log_ratio(old_BT, sampler_BT)), objective.truncate)

    value_B = jnp.where(mask_BT, value_BT, 0).sum(1)
    if objective.average == "sequence":
        loss = -(value_B / length_B).sum() / totals.sequences
    else:
        loss = -value_B.sum() / (
            totals.tokens if objective.average == "token" else totals.sequences * totals.length
        )

    def total(x_BT):
        return jnp.where(mask_BT, stop_gradient(x_BT), 0).sum(dtype=jnp.float32)

    kl = None if ref_BT is None else total(kl_estimate("k3", logp_BT, ref_BT, old_BT))
    return loss, Metrics(
        total(1.0),
        total(below_BT),
        total(above_BT),
        total(ratio_BT),
        total(away_BT),
        kl,
        left_out_B.sum(dtype=jnp.float32),
        jnp.abs(old_BT - sampler_BT).max(),
    )
