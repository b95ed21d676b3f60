"""From logits to tokens: the settings, the distribution they mean, and draws from it."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seekjax.errors import GenerateError


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn and when a row ends."""

    max_new: int = 256  # tokens written at most
    temperature: float = 1.0  # logits are divided by it; 0 takes the likeliest token
    top_k: int = 0  # only so many likeliest tokens; 0 = all
    top_p: float = 1.0  # only the likeliest tokens that hold this share of the probability
    min_p: float = 0.0  # only tokens at least this share as likely as the likeliest
    seed: int = 0  # row b of a batch draws as row 0 does with seed + b, so it writes the same alone
    stop_ids: tuple[int, ...] = ()  # a row ends with one of these
    stop: tuple[str, ...] = field(
        default=()
    )  # a row ends before one of these, where the caller says how ids are spelled

    def __post_init__(self):
        for name, right, wanted in (
            ("max_new", self.max_new >= 1, "at least 1"),
            (
                "temperature",
                self.temperature >= 0 and math.isfinite(self.temperature),
                "a number from 0 (greedy) up",
            ),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p < 1, "from 0 to below 1"),
            ("stop", all(self.stop), "strings that are not empty"),
        ):
            if not right:
                raise GenerateError(f"{name} is {getattr(self, name)}: it must be {wanted}.")


class SamplingArrays(NamedTuple):
    """The numbers of a Sampling as arrays: turning one compiles nothing."""

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array


def sampling_arrays(sampling: Sampling) -> SamplingArrays:
    """Device scalars of the settings."""
    return SamplingArrays(
        jnp.float32(sampling.temperature),
        jnp.int32(sampling.top_k),
        jnp.float32(sampling.top_p),
        jnp.float32(sampling.min_p),
    )


def keys(sampling: Sampling, rows: int) -> jax.Array:
    """The root of each row's randomness, [B]."""
    return jax.vmap(jax.random.key)((sampling.seed + jnp.arange(rows)).astype(jnp.uint32))


def shape(logit_BV: jax.Array, sampling: SamplingArrays) -> jax.Array:
    """Logits whose softmax is the distribution to draw from; -inf where a token cannot come.

    Temperature first, then top-k, top-p of what is left, min-p. Equally likely tokens at a border
    stay together. Temperature 0 leaves the first likeliest token alone, so that greedy decoding is
    drawing too.
    """
    V = logit_BV.shape[-1]

    def greedy(logit_BV):
        return jnp.where(jnp.arange(V) == logit_BV.argmax(-1, keepdims=True), 0.0, -jnp.inf)

    def cut(logit_BV):
        falling_BV = -jnp.sort(-logit_BV, -1)
        kept_BV = jnp.where(
            (sampling.top_k == 0) | (jnp.arange(V) < sampling.top_k), falling_BV, -jnp.inf
        )
        share_BV = jax.nn.softmax(kept_BV, -1)
        before_BV = jnp.cumsum(share_BV, -1) - share_BV  # the likeliest token always stays
        stays_BV = (
            jnp.isfinite(kept_BV)
            & (before_BV < sampling.top_p)
            & (share_BV >= sampling.min_p * share_BV[:, :1])
        )
        least_B1 = jnp.where(stays_BV, falling_BV, jnp.inf).min(-1, keepdims=True)
        return jnp.where(logit_BV >= least_B1, logit_BV, -jnp.inf)

    def tempered(logit_BV):
        cuts = (sampling.top_k > 0) | (sampling.top_p < 1) | (sampling.min_p > 0)
        return jax.lax.cond(cuts, cut, lambda logit_BV: logit_BV, logit_BV / sampling.temperature)

    return jax.lax.cond(sampling.temperature > 0, tempered, greedy, logit_BV)


def draw(key_B: jax.Array, logit_BV: jax.Array) -> jax.Array:
    """A token of each row's softmax, int32 [B], by the inverse of its cumulative distribution: one
    random number a row, looked up first among stretches of about sqrt(V) tokens and then inside
    one. A token at -inf is never drawn, so a row with one possible token needs no luck.
    """
    share_BV = jnp.exp(logit_BV - logit_BV.max(-1, keepdims=True))
    V = logit_BV.shape[1]
    width = math.ceil(math.sqrt(V))
    share_BXY = jnp.pad(share_BV, ((0, 0), (0, -V % width))).reshape(len(key_B), -1, width)
    stretch_BX = share_BXY.sum(-1)
    luck_B = jax.vmap(jax.random.uniform)(key_B) * stretch_BX.sum(-1)
    x_B, rest_B = look_up(stretch_BX, luck_B)
    y_B, _ = look_up(jnp.take_along_axis(share_BXY, x_B[:, None, None], 1)[:, 0], rest_B)
    return (x_B * width + y_B).astype(jnp.int32)


def look_up(share_BX: jax.Array, luck_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which of the intervals of these widths, end to end from 0, holds a number, and how far
    inside; whatever rounding says, one whose width is not 0."""
    end_BX = jnp.where(share_BX > 0, jnp.cumsum(share_BX, -1), -jnp.inf)
    luck_B = jnp.minimum(luck_B, jnp.nextafter(end_BX.max(-1), jnp.float32(0)))
    index_B = (end_BX > luck_B[:, None]).argmax(-1)
    end_B, width_B = (
        jnp.take_along_axis(x_BX, index_B[:, None], 1)[:, 0] for x_BX in (end_BX, share_BX)
    )
    return index_B, jnp.maximum(luck_B - (end_B - width_B), 0)


def at(key_B: jax.Array, position_B: jax.Array, use: int = 0) -> jax.Array:
    """Each row's key for one use at one position of its text."""
    return jax.vmap(
        lambda key, position: jax.random.fold_in(jax.random.fold_in(key, position), use)
    )(key_B, position_B)


def log_prob(logit_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    """The model's own log probability of the tokens, whatever the settings did to it, [B] in
    float32."""
    return jnp.take_along_axis(jax.nn.log_softmax(logit_BV, -1), token_B[:, None], -1)[:, 0]
