"""Sampling: the distribution that its settings define, and draws from it."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seekjax.config.generation import Sampling


class SamplingArrays(NamedTuple):
    """The numbers of a Sampling as traced values: changing one does not recompile.

    Each is one number for all rows, or [B].
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    adjustments: Any = None  # penalties, biases and allowed tokens of each row: generate/adjust.py


def sampling_arrays(sampling: Sampling) -> SamplingArrays:
    """Return the settings as device scalars."""
    return SamplingArrays(
        jnp.float32(sampling.temperature),
        jnp.int32(sampling.top_k),
        jnp.float32(sampling.top_p),
        jnp.float32(sampling.min_p),
    )


def position_key(
    key_B: jax.Array,
    position_B: jax.Array,
    use: int = 0,
) -> jax.Array:
    """Return each row's key for one use at one position of its text."""

    def fold(key, position):
        return jax.random.fold_in(jax.random.fold_in(key, position), use)

    return jax.vmap(fold)(key_B, position_B)


def apply_sampling(logit_BV: jax.Array, sampling: SamplingArrays) -> jax.Array:
    """Return logits whose softmax is the distribution to draw from; -inf excludes a token.

    Temperature first, then top-k, then top-p of what is left, then min-p. Tokens as likely as the
    last one that is kept are kept too. Temperature 0 keeps the first most likely token alone, so
    that greedy decoding is a draw as well.
    """
    V = logit_BV.shape[-1]
    numbers = (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
    temperature_B1, top_k_B1, top_p_B1, min_p_B1 = [jnp.reshape(x, (-1, 1)) for x in numbers]
    greedy_B1 = temperature_B1 == 0

    def keep_first_best(logit_BV):
        best_B1 = logit_BV.argmax(-1, keepdims=True)
        return jnp.where(jnp.arange(V) == best_B1, 0.0, -jnp.inf)

    def truncate(logit_BV):
        sorted_BV = -jnp.sort(-logit_BV, -1)

        # top-k: the first k of the sorted logits
        in_top_k_BV = (top_k_B1 == 0) | (jnp.arange(V) < top_k_B1)
        top_k_BV = jnp.where(in_top_k_BV, sorted_BV, -jnp.inf)

        # top-p: tokens with less than p before them, so that the most likely one always stays
        share_BV = jax.nn.softmax(top_k_BV, -1)
        before_BV = jnp.cumsum(share_BV, -1) - share_BV
        in_top_p_BV = before_BV < top_p_B1

        # min-p: relative to the most likely token
        above_min_p_BV = share_BV >= min_p_B1 * share_BV[:, :1]

        # the smallest logit that is kept is the threshold in the order of the vocabulary
        kept_BV = jnp.isfinite(top_k_BV) & in_top_p_BV & above_min_p_BV
        kept_logit_BV = jnp.where(kept_BV, sorted_BV, jnp.inf)
        threshold_B1 = kept_logit_BV.min(-1, keepdims=True)

        # a row that does not truncate keeps also what rounding would cut off
        kept_BV = (logit_BV >= threshold_B1) | ~truncates_B1
        return jnp.where(kept_BV, logit_BV, -jnp.inf)

    def apply_temperature(logit_BV):
        scaled_BV = logit_BV / jnp.where(greedy_B1, 1, temperature_B1)
        return jax.lax.cond(truncates_B1.any(), truncate, lambda logit_BV: logit_BV, scaled_BV)

    def mixed(logit_BV):
        return jnp.where(greedy_B1, keep_first_best(logit_BV), apply_temperature(logit_BV))

    # the sort is skipped if no row truncates, and each part that no row needs
    truncates_B1 = (top_k_B1 > 0) | (top_p_B1 < 1) | (min_p_B1 > 0)
    truncates_B1 &= ~greedy_B1
    if truncates_B1.shape[0] == 1:
        return jax.lax.cond(greedy_B1.all(), keep_first_best, apply_temperature, logit_BV)
    greedy_rows = greedy_B1.sum()
    form = (greedy_rows > 0).astype(jnp.int32) + (greedy_rows == greedy_B1.size)
    return jax.lax.switch(form, (apply_temperature, mixed, keep_first_best), logit_BV)


def draw(key_B: jax.Array, logit_BV: jax.Array) -> jax.Array:
    """Draw a token from each row's softmax, int32 [B], by the inverse of its distribution function.

    One random number per row is located among blocks of about sqrt(V) tokens first, then inside
    one block. A token at -inf is never drawn, so a row with one possible token always returns it.
    """
    B, V = logit_BV.shape
    weight_BV = jnp.exp(logit_BV - logit_BV.max(-1, keepdims=True))

    # X blocks of Y tokens each
    Y = math.ceil(math.sqrt(V))
    missing = -V % Y
    padded_BX = jnp.pad(weight_BV, ((0, 0), (0, missing)))
    weight_BXY = padded_BX.reshape(B, -1, Y)
    block_BX = weight_BXY.sum(-1)

    # first the block, then the token inside the block
    uniform_B = jax.vmap(jax.random.uniform)(key_B) * block_BX.sum(-1)
    x_B, rest_B = inverse_cdf(block_BX, uniform_B)
    index_B11 = x_B[:, None, None]
    chosen_BY = jnp.take_along_axis(weight_BXY, index_B11, 1)[:, 0]
    y_B, _ = inverse_cdf(chosen_BY, rest_B)
    return (x_B * Y + y_B).astype(jnp.int32)


def inverse_cdf(weight_BX: jax.Array, value_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the interval that holds each value, and the value's distance from its start.

    The intervals have these widths and lie end to end from 0. An interval of width 0 is never
    returned, whatever rounding does.
    """
    sum_BX = jnp.cumsum(weight_BX, -1)
    end_BX = jnp.where(weight_BX > 0, sum_BX, -jnp.inf)

    # a value rounded up to the total still lies inside the last interval
    largest_B = jnp.nextafter(end_BX.max(-1), jnp.float32(0))
    value_B = jnp.minimum(value_B, largest_B)
    index_B = (end_BX > value_B[:, None]).argmax(-1)

    end_B = take_per_row(end_BX, index_B)
    width_B = take_per_row(weight_BX, index_B)
    return index_B, jnp.maximum(value_B - (end_B - width_B), 0)


def log_prob(logit_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    """Return the tokens' log probabilities before any sampling settings, float32 [B]."""
    return take_per_row(jax.nn.log_softmax(logit_BV, -1), token_B)


def take_per_row(x_BX: jax.Array, index_B: jax.Array) -> jax.Array:
    """Return x_BX[b, index_B[b]] of each row b."""
    index_B1 = index_B[:, None]
    return jnp.take_along_axis(x_BX, index_B1, -1)[:, 0]
