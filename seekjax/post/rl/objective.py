"""The objective of reinforcement: group-relative advantages, ratios, clipped surrogates and a KL.

Axes, besides the model's: P prompts; G samples of one prompt (a group); B = P * G sequences; T
completion tokens. `pi` is the policy that learns, `pi_old` the same trainer's policy at the
rollout, `pi_sampler` the probabilities that the sampler drew with, `pi_ref` the reference. `logp`
are log-probabilities of the sampled tokens.

Each part is a function in a table, and `module:name` names one of your own. The published
combinations, with their papers' formulas, are in seekjax/config/recipes.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from seekjax.config import Objective
from seekjax.registry import Registry

# nats: beyond e^20 a ratio is noise, and e^89 would overflow float32 and turn an advantage of zero
# into NaN
MAX_LOG_RATIO = 20.0


class Totals(NamedTuple):
    """Counts over the whole minibatch, all micro-batches and devices, that sums are divided by.

    Because they count everything, splitting a minibatch does not change the loss.
    """

    tokens: jax.Array | float  # unmasked tokens
    sequences: jax.Array | float
    length: float  # tokens of the longest completion allowed, the constant of Dr. GRPO


class Metrics(NamedTuple):
    """Sums over the unmasked tokens of a micro-batch; divided by `tokens`, shares and means."""

    tokens: jax.Array
    # tokens whose ratio is held at the lower bound and which so have no gradient (CISPO: which are
    # weighted by the bound)
    clip_low: jax.Array
    clip_high: jax.Array
    ratio: jax.Array
    log_ratio: jax.Array  # log pi / pi_old
    kl: jax.Array | None  # k3 estimate of KL(pi || pi_ref); None without a reference
    masked: jax.Array  # sequences left out by mask_ratio
    gap: jax.Array  # the largest |log pi_old / pi_sampler|; a maximum, not a sum


class Surrogate(NamedTuple):
    """What is maximised at each token, and the tokens that the bounds hold."""

    value_BT: jax.Array
    at_low_BT: jax.Array
    at_high_BT: jax.Array


# Advantages: float32 rewards and a bool mask, both [P, G], to how much better each sample is.


def centred(reward_PG: jax.Array, valid_PG: jax.Array) -> jax.Array:
    """R - mean r of the group. A group whose rewards are all equal gets exactly 0."""
    count_P1 = valid_PG.sum(1, keepdims=True)
    low_P1 = jnp.where(valid_PG, reward_PG, jnp.inf).min(1, keepdims=True)
    # Exactly 0 if all rewards are equal, which reward - mean is not.
    above_PG = jnp.where(valid_PG, reward_PG - low_P1, 0)
    mean_P1 = above_PG.sum(1, keepdims=True) / jnp.maximum(count_P1, 1)
    return jnp.where(valid_PG, above_PG - mean_P1, 0)


def standardised(reward_PG: jax.Array, valid_PG: jax.Array) -> jax.Array:
    """(r - mean r) / (std r + 1e-6) of the group.

    DeepSeekMath (2402.03300, section 4.1.2) does not say which std: this one divides by n - 1, as
    the public trainers do.
    """
    centred_PG = centred(reward_PG, valid_PG)
    count_P1 = valid_PG.sum(1, keepdims=True)
    square_P1 = (centred_PG**2).sum(1, keepdims=True)
    std_P1 = jnp.sqrt(square_P1 / jnp.maximum(count_P1 - 1, 1))
    return centred_PG / (std_P1 + 1e-6)


Advantage = Callable[[jax.Array, jax.Array], jax.Array]
ADVANTAGES: Registry[Advantage] = Registry(
    "advantage", {"standardised": standardised, "centred": centred}
)


@partial(jax.jit, static_argnames="name")
def advantages(reward_PG: jax.Array, valid_PG: jax.Array, name: str) -> jax.Array:
    """Return how much better each sample is than its group, in float32 [P, G].

    Samples that are not valid, or whose reward is not finite because a reward function failed, are
    left out of the statistics and get 0.
    """
    reward_PG = reward_PG.astype(jnp.float32)
    valid_PG = valid_PG & jnp.isfinite(reward_PG)
    finite_PG = jnp.where(valid_PG, reward_PG, 0)
    return jnp.where(valid_PG, ADVANTAGES.find(name)(finite_PG, valid_PG), 0)


# Ratios: log pi / pi_old [B, T], 0 where nothing was drawn, and lengths [B], to the log ratio.


def token_ratio(log_ratio_BT: jax.Array, length_B: jax.Array) -> jax.Array:
    """Log pi / pi_old of each token."""
    return log_ratio_BT


def sequence_ratio(log_ratio_BT: jax.Array, length_B: jax.Array) -> jax.Array:
    """mean_t log pi / pi_old, the same for all tokens of a sequence (GSPO).

    Each token keeps its own gradient: their mean is the gradient of GSPO's s_i (2507.18071, section
    4.3).
    """
    mean_B = stop_gradient(log_ratio_BT.sum(1) / length_B)
    return mean_B[:, None] + log_ratio_BT - stop_gradient(log_ratio_BT)


Ratio = Callable[[jax.Array, jax.Array], jax.Array]
RATIOS: Registry[Ratio] = Registry("ratio", {"token": token_ratio, "sequence": sequence_ratio})


# Surrogates: bounds, ratio and log pi [B, T], and advantage [B, 1], to what is maximised.


def clipped(
    objective: Objective, ratio_BT: jax.Array, logp_BT: jax.Array, advantage_B1: jax.Array
) -> Surrogate:
    """min(r A, clip(r) A): only the bound that the advantage pushes towards matters (PPO)."""
    low, high = 1 - objective.clip_low, 1 + objective.clip_high
    raised_BT = jnp.maximum(ratio_BT, low)
    lowered_BT = jnp.minimum(ratio_BT, high)
    held_BT = jnp.where(advantage_B1 < 0, raised_BT, lowered_BT)
    return Surrogate(
        value_BT=held_BT * advantage_B1,
        at_low_BT=(ratio_BT < low) & (advantage_B1 < 0),
        at_high_BT=(ratio_BT > high) & (advantage_B1 > 0),
    )


def cispo(
    objective: Objective, ratio_BT: jax.Array, logp_BT: jax.Array, advantage_B1: jax.Array
) -> Surrogate:
    """stop_gradient(clip(r)) A log pi: every token has a gradient (MiniMax-M1)."""
    low, high = 1 - objective.clip_low, 1 + objective.clip_high
    weight_BT = stop_gradient(jnp.clip(ratio_BT, low, high))
    return Surrogate(weight_BT * advantage_B1 * logp_BT, ratio_BT < low, ratio_BT > high)


SurrogateFunction = Callable[[Objective, jax.Array, jax.Array, jax.Array], Surrogate]
SURROGATES: Registry[SurrogateFunction] = Registry(
    "surrogate", {"clipped": clipped, "cispo": cispo}
)


# Averages: sums over the tokens of each sequence [B] and lengths [B], to this micro-batch's share
# of the mean over the minibatch.


def sequence_average(value_B: jax.Array, length_B: jax.Array, totals: Totals) -> jax.Array:
    """Mean over a sequence's tokens, then over sequences."""
    return (value_B / length_B).sum() / totals.sequences


def token_average(value_B: jax.Array, length_B: jax.Array, totals: Totals) -> jax.Array:
    """Mean over all tokens of the minibatch."""
    return value_B.sum() / totals.tokens


def constant_average(value_B: jax.Array, length_B: jax.Array, totals: Totals) -> jax.Array:
    """Sum over a sequence's tokens, divided by a fixed length, then the mean over sequences."""
    return value_B.sum() / (totals.sequences * totals.length)


Average = Callable[[jax.Array, jax.Array, Totals], jax.Array]
AVERAGES: Registry[Average] = Registry(
    "average",
    {"sequence": sequence_average, "token": token_average, "constant": constant_average},
)


def check_parts(objective: Objective) -> None:
    """Raise ConfigError if a part of the objective does not exist."""
    ADVANTAGES.find(objective.advantage)
    RATIOS.find(objective.ratio)
    SURROGATES.find(objective.surrogate)
    AVERAGES.find(objective.average)


def log_ratio(above: jax.Array, below: jax.Array) -> jax.Array:
    """Return above - below, clipped to +-20 nats so that its exponential cannot overflow."""
    return jnp.clip(above - below, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def kl_estimate(
    form: Literal["k1", "k2", "k3", "unbiased"],
    logp: jax.Array,
    ref: jax.Array,
    old: jax.Array,
) -> jax.Array:
    """Return an estimate of KL(pi || pi_ref) from tokens drawn by pi_old, elementwise.

    Its value and its gradient, on average, depend on the form:

    k1: log pi/ref
        Exact value if pi = pi_old; a gradient of zero, so it trains nothing.
    k2: (log pi/ref)^2 / 2
        Biased value; exact gradient if pi = pi_old.
    k3: ref/pi - log ref/pi - 1  (DeepSeekMath, equation 4)
        Exact value if pi = pi_old; the gradient is that of KL(ref || pi).
    unbiased: pi/pi_old (ref/pi - log ref/pi - 1)  (DeepSeek-V3.2, 2512.02556, section 3.1)
        Exact value and gradient for every pi_old.

    Raises ValueError for another form.
    """
    log_pi_ref = log_ratio(logp, ref)
    if form == "k1":
        return log_pi_ref
    if form == "k2":
        return log_pi_ref**2 / 2

    k3 = jnp.expm1(-log_pi_ref) + log_pi_ref
    if form == "k3":
        return k3
    if form == "unbiased":
        return jnp.exp(log_ratio(logp, stop_gradient(old))) * k3
    raise ValueError(f"unknown form of the KL estimate {form!r}: choose k1, k2, k3 or unbiased")


def policy_loss(
    objective: Objective,
    logp_BT: jax.Array,
    old_BT: jax.Array,
    sampler_BT: jax.Array,
    ref_BT: jax.Array | None,
    advantage_B: jax.Array,
    mask_BT: jax.Array,
    totals: Totals,
) -> tuple[jax.Array, Metrics]:
    """Return this micro-batch's share of the loss, -mean(surrogate M - kl * KL), and its metrics.

    Only `logp_BT` carries a gradient. `ref_BT` may be None if objective.kl is 0. Where mask_BT is
    False the arrays may hold anything.

    M, V3.2's mask, drops the surrogate of a sequence and keeps its divergence, as the paper writes
    it. The correction for the sampler weighs both, because both are expectations over its draws.

    Raises ValueError if a reference is needed and missing.
    """
    if objective.kl and ref_BT is None:
        raise ValueError(
            f"objective.kl is {objective.kl}: it needs log-probabilities of a reference model; "
            "give them or set it to 0"
        )

    def unmasked(x_BT: jax.Array) -> jax.Array:
        return jnp.where(mask_BT, x_BT, 0).astype(jnp.float32)

    logp_BT = unmasked(logp_BT)
    old_BT = stop_gradient(unmasked(old_BT))
    sampler_BT = stop_gradient(unmasked(sampler_BT))
    if ref_BT is not None:
        ref_BT = stop_gradient(unmasked(ref_BT))
    advantage_B1 = stop_gradient(advantage_B)[:, None]
    length_B = jnp.maximum(mask_BT.sum(1), 1)

    # Surrogate of the ratio to the policy of the rollout
    log_ratio_BT = log_ratio(logp_BT, old_BT)
    ratio_BT = jnp.exp(RATIOS.find(objective.ratio)(log_ratio_BT, length_B))
    surrogate = SURROGATES.find(objective.surrogate)(objective, ratio_BT, logp_BT, advantage_B1)

    # V3.2's mask of bad samples that the trainer finds unlikely
    masked_B = jnp.zeros(advantage_B.shape, bool)
    if objective.mask_ratio:
        drift_B = stop_gradient(sampler_BT - logp_BT).sum(1) / length_B
        masked_B = (advantage_B < 0) & (drift_B > objective.mask_ratio)
    value_BT = jnp.where(masked_B[:, None], 0, surrogate.value_BT)

    # Divergence from the reference, and the correction for the sampler
    if objective.kl and ref_BT is not None:
        value_BT -= objective.kl * kl_estimate(objective.kl_form, logp_BT, ref_BT, old_BT)
    if objective.truncate:
        value_BT *= jnp.minimum(jnp.exp(log_ratio(old_BT, sampler_BT)), objective.truncate)

    value_B = jnp.where(mask_BT, value_BT, 0).sum(1)
    loss = -AVERAGES.find(objective.average)(value_B, length_B, totals)

    def total(x_BT: jax.Array | float) -> jax.Array:
        return jnp.where(mask_BT, stop_gradient(x_BT), 0).sum(dtype=jnp.float32)

    kl = None
    if ref_BT is not None:
        kl = total(kl_estimate("k3", logp_BT, ref_BT, old_BT))
    return loss, Metrics(
        tokens=total(1.0),
        clip_low=total(surrogate.at_low_BT),
        clip_high=total(surrogate.at_high_BT),
        ratio=total(ratio_BT),
        log_ratio=total(log_ratio_BT),
        kl=kl,
        masked=masked_B.sum(dtype=jnp.float32),
        gap=jnp.abs(old_BT - sampler_BT).max(),
    )
