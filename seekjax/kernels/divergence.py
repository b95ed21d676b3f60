"""How far student and teacher are apart at every token, and which tokens the teacher finds
likeliest; logits are held for some rows at a time.

    # KL(p || q) = sum_v p_v (log p_v - log q_v)      reverse  KL(q || p)      p of the teacher, q
    # of the student: softmax(logits / temperature)
    forward

Either over the whole vocabulary, or over the teacher's K likeliest tokens and one more outcome, any
other token: a bound from below that is the whole where p and q agree on all others up to a factor.
What either model gives the others together is summed over them, never 1 - sum, which rounds to 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sharding.rules import local, mesh_axes, split_by

ROWS = 512  # whose logits are held at once, on each device
TOKEN = "batch sequence"


def divergence(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    teacher: dict[str, jax.Array],
    kind: str,
    temperature: float,
) -> jax.Array:
    """KL of each token, [B, T] in float32; no gradient reaches the teacher.

    teacher: what `likeliest` gives, or "hidden" [B, T, D] and "head" [D, V] of a model with the
    same vocabulary.
    """
    axes = mesh_axes("vocab")

    def coarse(hidden_mD, log_mK, index_mK, head_Dv):
        return kl(
            lax.stop_gradient(log_mK),
            at_tokens(scaled(hidden_mD, head_Dv, temperature), index_mK, axes),
            kind,
        )

    def whole(hidden_mD, other_mD, head_Dv, other_Dv):
        p_mv, q_mv = (
            x - log_total(x, axes)[:, None]
            for x in (
                scaled(other_mD, other_Dv, temperature),
                scaled(hidden_mD, head_Dv, temperature),
            )
        )
        kl_m = kl(lax.stop_gradient(p_mv), q_mv, kind)
        return lax.psum(kl_m, axes) if axes else kl_m

    if "index" in teacher:
        return over_tokens(coarse, (hidden_BTD, teacher["log_prob"], teacher["index"]), (head_DV,))
    return over_tokens(whole, (hidden_BTD, teacher["hidden"]), (head_DV, teacher["head"]))


def likeliest(
    hidden_BTD: jax.Array, head_DV: jax.Array, top_k: int, temperature: float
) -> dict[str, jax.Array]:
    """ "index" [B, T, K], the likeliest tokens first, and "log_prob" [B, T, K + 1] in float32, the
    last of all other tokens together. K < V."""
    axes, parts = mesh_axes("vocab"), split_by("vocab")

    def body(hidden_mD, head_Dv):
        logit_mv = scaled(hidden_mD, head_Dv, temperature)
        value_mK, index_mK = lax.top_k(logit_mv, min(top_k, logit_mv.shape[1]))
        if axes:  # the likeliest of each part, side by side, have the likeliest of all among them
            value_mK, index_mK = (
                _side_by_side(x, axes, parts) for x in (value_mK, index_mK + _first(logit_mv, axes))
            )
            _, best_mK = lax.top_k(value_mK, top_k)
            index_mK = jnp.take_along_axis(index_mK, best_mK, 1)
        return {"index": index_mK, "log_prob": at_tokens(logit_mv, index_mK, axes)}

    return over_tokens(body, (hidden_BTD,), (head_DV,))


def kl(p_mX: jax.Array, q_mX: jax.Array, kind: str) -> jax.Array:
    """From log-probabilities of all outcomes of the teacher and of the student."""
    return (
        (jnp.exp(p_mX) * (p_mX - q_mX)) if kind == "forward" else (jnp.exp(q_mX) * (q_mX - p_mX))
    ).sum(1)


def scaled(hidden_mD: jax.Array, head_Dv: jax.Array, temperature: float) -> jax.Array:
    """Logits in float32, over the temperature."""
    return (
        jnp.einsum("mD,Dv->mv", hidden_mD, head_Dv, preferred_element_type=jnp.float32)
        / temperature
    )


def log_total(logit_mv: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Log sum exp over the whole vocabulary."""
    max_m = lax.stop_gradient(logit_mv).max(1)
    max_m = lax.pmax(max_m, axes) if axes else max_m
    total_m = jnp.exp(logit_mv - max_m[:, None]).sum(1)
    return max_m + jnp.log(lax.psum(total_m, axes) if axes else total_m)


def at_tokens(logit_mv: jax.Array, index_mK: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """log-probabilities of some tokens, and of all others together, [m, K + 1]."""
    width = logit_mv.shape[1]
    here_mK = index_mK - _first(logit_mv, axes)
    mine_mK = (here_mK >= 0) & (here_mK < width)
    named_mK = jnp.where(
        mine_mK, jnp.take_along_axis(logit_mv, jnp.clip(here_mK, 0, width - 1), 1), 0
    )
    named_mK = lax.psum(named_mK, axes) if axes else named_mK
    others_mv = jax.vmap(lambda row, at: row.at[at].set(-jnp.inf, mode="drop"))(
        logit_mv, jnp.where(mine_mK, here_mK, width)
    )
    return (
        jnp.concatenate([named_mK, log_total(others_mv, axes)[:, None]], 1)
        - log_total(logit_mv, axes)[:, None]
    )


def over_tokens(
    function: Callable[..., Any], tokens: tuple[jax.Array, ...], whole: tuple[jax.Array, ...]
) -> Any:
    """function(*tokens, *whole) of ROWS tokens at a time, each device its own; logits are made
    again in the backward pass instead of being kept.

    tokens: [B, T, X] each; whole: output heads [D, V], each device its part of the vocabulary. The
    function gives trees of [m, ...].
    """

    def body(tokens, whole):
        B, T = tokens[0].shape[:2]
        count = -(-B * T // ROWS)
        rows = -(-B * T // count)
        cut = [
            jnp.pad(x.reshape(B * T, -1), ((0, count * rows - B * T), (0, 0))).reshape(
                count, rows, -1
            )
            for x in tokens
        ]
        made = lax.map(jax.checkpoint(lambda some: function(*some, *whole)), cut)
        return jax.tree.map(
            lambda x: x.reshape(count * rows, *x.shape[2:])[: B * T].reshape(B, T, *x.shape[2:]),
            made,
        )

    return local(body, (TOKEN, "- vocab"), TOKEN)(tokens, whole)


def _first(logit_mv: jax.Array, axes: tuple[str, ...]) -> Any:
    """The number of this part's first token."""
    return lax.axis_index(axes) * logit_mv.shape[1] if axes else 0


def _side_by_side(x_mK: jax.Array, axes: tuple[str, ...], parts: int) -> jax.Array:
    """What each part of the vocabulary has, [m, parts * K], the same on every device along
    `axes`."""
    slots = jnp.zeros((parts, *x_mK.shape), x_mK.dtype).at[lax.axis_index(axes)].set(x_mK)
    return jnp.concatenate(lax.psum(slots, axes), 1)
