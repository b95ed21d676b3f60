"""Penalties, biases and allowed tokens: what changes logits before temperature and truncation.

Every row has its own numbers, and a part that no row needs is skipped.
"""

import jax
import jax.numpy as jnp
from flax import struct

from seekjax.generate.sampling import SamplingArrays, apply_sampling
from seekjax.generate.state import State


class Adjustments(struct.PyTreeNode):
    """What changes the logits of each row."""

    prompt_B: jax.Array  # tokens of the prompt, for the penalties that count the answer alone
    repetition_B: jax.Array  # 1: no penalty
    frequency_B: jax.Array
    presence_B: jax.Array
    bias_id_BX: jax.Array  # ids with a bias, V where there are fewer
    bias_BX: jax.Array
    filtered_B: jax.Array  # whether allowed_Bx counts
    allowed_Bx: jax.Array  # uint32 [B, ceil(V / 32)]: bit i of word w is token 32 w + i


def logits_to_draw(
    state: State,
    logit_BV: jax.Array,
    sampling: SamplingArrays,
) -> jax.Array:
    """Return what the token at length_B is drawn from: logits adjusted, at their temperature and
    truncated.
    """
    adjusted_BV = adjust(logit_BV, state.tokens_BS, state.length_B, sampling.adjustments)
    return apply_sampling(adjusted_BV, sampling)


def adjust(
    logit_BV: jax.Array,
    tokens_BS: jax.Array,
    length_B: jax.Array,
    adjustments: Adjustments | None,
) -> jax.Array:
    """Return the logits of the token at length_B of each row, adjusted.

    In this order: repetition penalty, frequency and presence penalty, bias, allowed tokens.
    """
    if adjustments is None:
        return logit_BV
    a = adjustments

    def unchanged(logit_BV):
        return logit_BV

    def penalise(logit_BV):
        return apply_penalties(logit_BV, tokens_BS, length_B, a)

    def add_bias(logit_BV):
        add = jax.vmap(lambda logit_V, id_X, bias_X: logit_V.at[id_X].add(bias_X, mode="drop"))
        return add(logit_BV, a.bias_id_BX, a.bias_BX)

    def keep_allowed(logit_BV):
        allowed_BV = unpack(a.allowed_Bx, logit_BV.shape[-1]) | ~a.filtered_B[:, None]
        return jnp.where(allowed_BV, logit_BV, -jnp.inf)

    penalised_B = (a.repetition_B != 1) | (a.frequency_B != 0) | (a.presence_B != 0)
    biased = (a.bias_id_BX < logit_BV.shape[-1]).any()
    logit_BV = jax.lax.cond(penalised_B.any(), penalise, unchanged, logit_BV)
    logit_BV = jax.lax.cond(biased, add_bias, unchanged, logit_BV)
    return jax.lax.cond(a.filtered_B.any(), keep_allowed, unchanged, logit_BV)


def apply_penalties(
    logit_BV: jax.Array,
    tokens_BS: jax.Array,
    length_B: jax.Array,
    a: Adjustments,
) -> jax.Array:
    """Return logits after the repetition penalty (1909.05858 section 4.1), then those for frequency
    and presence.
    """
    V = logit_BV.shape[-1]
    slot_S = jnp.arange(tokens_BS.shape[1])
    written_BS = slot_S < length_B[:, None]
    answer_BS = written_BS & (slot_S >= a.prompt_B[:, None])

    def count(tokens_S, counted_S):
        return jnp.zeros(V, jnp.int32).at[tokens_S].add(counted_S)

    total_BV = jax.vmap(count)(tokens_BS, written_BS.astype(jnp.int32))
    answer_BV = jax.vmap(count)(tokens_BS, answer_BS.astype(jnp.int32))

    repetition_B1 = a.repetition_B[:, None]
    repeated_BV = jnp.where(logit_BV > 0, logit_BV / repetition_B1, logit_BV * repetition_B1)
    logit_BV = jnp.where(total_BV > 0, repeated_BV, logit_BV)
    logit_BV -= a.frequency_B[:, None] * answer_BV
    return logit_BV - a.presence_B[:, None] * (answer_BV > 0)


def unpack(bits_Bx: jax.Array, size: int) -> jax.Array:
    """Return packed bits as booleans, [B, size]: bit i of word w is number 32 w + i."""
    bit_Bx32 = bits_Bx[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)
    return (bit_Bx32 & 1).astype(bool).reshape(bits_Bx.shape[0], -1)[:, :size]
