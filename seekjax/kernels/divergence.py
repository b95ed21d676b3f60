"""The divergence of student and teacher at every token, and the teacher's most probable tokens;
logits are held for some rows at a time.

    forward   KL(p || q) = sum_v p_v (log p_v - log q_v)
    reverse   KL(q || p)

with p of the teacher and q of the student, both softmax(logits / temperature).

The sum is either over the whole vocabulary, or over the teacher's K most probable tokens and one
more outcome, any other token. The latter is a lower bound, and equal to the former if p and q agree
on all other tokens up to a factor. The probability of all others together is summed over them,
never 1 - sum, which would round to 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seekjax.kernels.logits import Axes, first_token, log_sum_exp, row_tiles
from sharding.rules import local, mesh_axes, split_by

# tokens whose logits are held at once, on each device
ROWS = 512
TOKEN = "batch sequence"


def divergence(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    teacher: dict[str, jax.Array],
    kind: str,
    temperature: float,
) -> jax.Array:
    """Return the KL of each token, [B, T] in float32; no gradient reaches the teacher.

    teacher: the result of `top_k_log_probs`, or "hidden" [B, T, D] and "head" [D, V] of a model
    with the same vocabulary. kind: "forward" or "reverse".
    """
    axes = mesh_axes("vocab")

    def of_top_k(hidden_mD, log_mK, index_mK, head_Dv):
        logit_mv = scaled_logits(hidden_mD, head_Dv, temperature)
        q_mK = log_probs_at(logit_mv, index_mK, axes)
        return kl(lax.stop_gradient(log_mK), q_mK, kind)

    def of_whole_vocabulary(hidden_mD, teacher_mD, head_Dv, teacher_Dv):
        p_mv = log_softmax(scaled_logits(teacher_mD, teacher_Dv, temperature), axes)
        q_mv = log_softmax(scaled_logits(hidden_mD, head_Dv, temperature), axes)
        kl_m = kl(lax.stop_gradient(p_mv), q_mv, kind)
        return lax.psum(kl_m, axes) if axes else kl_m

    if "index" in teacher:
        tokens = (hidden_BTD, teacher["log_prob"], teacher["index"])
        return over_tokens(of_top_k, tokens, (head_DV,))
    heads = (head_DV, teacher["head"])
    return over_tokens(of_whole_vocabulary, (hidden_BTD, teacher["hidden"]), heads)


def top_k_log_probs(
    hidden_BTD: jax.Array, head_DV: jax.Array, top_k: int, temperature: float
) -> dict[str, jax.Array]:
    """Return the K most probable tokens of each position, K < V.

    "index" [B, T, K] has the most probable first. "log_prob" [B, T, K + 1] is in float32; its last
    entry is that of all other tokens together.
    """
    axes, parts = mesh_axes("vocab"), split_by("vocab")

    def body(hidden_mD, head_Dv):
        logit_mv = scaled_logits(hidden_mD, head_Dv, temperature)
        width = logit_mv.shape[1]
        value_mK, index_mK = lax.top_k(logit_mv, min(top_k, width))

        # The top K of the whole vocabulary are among the top K of its parts.
        if axes:
            value_mK = _gather_parts(value_mK, axes, parts)
            index_mK = _gather_parts(index_mK + first_token(width, axes), axes, parts)
            _, best_mK = lax.top_k(value_mK, top_k)
            index_mK = jnp.take_along_axis(index_mK, best_mK, 1)
        return {"index": index_mK, "log_prob": log_probs_at(logit_mv, index_mK, axes)}

    return over_tokens(body, (hidden_BTD,), (head_DV,))


def kl(
    p_mX: jax.Array,
    q_mX: jax.Array,
    kind: str,
) -> jax.Array:
    """Return the KL from log-probabilities of all outcomes, p of the teacher and q of the
    student.
    """
    if kind == "forward":
        return (jnp.exp(p_mX) * (p_mX - q_mX)).sum(1)
    return (jnp.exp(q_mX) * (q_mX - p_mX)).sum(1)


def scaled_logits(
    hidden_mD: jax.Array,
    head_Dv: jax.Array,
    temperature: float,
) -> jax.Array:
    """Return logits over the temperature, in float32."""
    logit_mv = jnp.einsum("mD,Dv->mv", hidden_mD, head_Dv, preferred_element_type=jnp.float32)
    return logit_mv / temperature


def log_softmax(logit_mv: jax.Array, axes: Axes) -> jax.Array:
    """Return this device's part of the log-probabilities of the whole vocabulary."""
    (log_total_m,) = log_sum_exp(logit_mv, axes)
    return logit_mv - log_total_m[:, None]


def log_probs_at(
    logit_mv: jax.Array,
    index_mK: jax.Array,
    axes: Axes,
) -> jax.Array:
    """Return the log-probabilities of some tokens, and of all others together, [m, K + 1]."""
    width = logit_mv.shape[1]
    local_mK = index_mK - first_token(width, axes)
    mine_mK = (local_mK >= 0) & (local_mK < width)

    # The logits of the tokens, from the part of the vocabulary that has them.
    named_mK = jnp.take_along_axis(logit_mv, jnp.clip(local_mK, 0, width - 1), 1)
    named_mK = jnp.where(mine_mK, named_mK, 0)
    if axes:
        named_mK = lax.psum(named_mK, axes)

    # The logits of all others; those of the tokens are masked.
    def mask(row_v, index_K):
        return row_v.at[index_K].set(-jnp.inf, mode="drop")

    others_mv = jax.vmap(mask)(logit_mv, jnp.where(mine_mK, local_mK, width))
    (others_m,) = log_sum_exp(others_mv, axes)
    (log_total_m,) = log_sum_exp(logit_mv, axes)
    return jnp.concatenate([named_mK, others_m[:, None]], 1) - log_total_m[:, None]


def over_tokens(
    function: Callable[..., Any],
    tokens: tuple[jax.Array, ...],
    heads: tuple[jax.Array, ...],
) -> Any:
    """Return function(*tokens, *heads) of ROWS tokens at a time, each device its own.

    The backward pass computes the logits again. tokens: [B, T, X] each; heads: output heads [D, V],
    each device its part of the vocabulary. The function returns trees of [m, ...].
    """

    def body(tokens, heads):
        B, T = tokens[0].shape[:2]

        @jax.checkpoint
        def tile(pieces):
            return function(*pieces, *heads)

        tiles = [row_tiles(x.reshape(B * T, -1), ROWS) for x in tokens]
        results = lax.map(tile, tiles)

        def join(x_nmX):
            x_MX = x_nmX.reshape(-1, *x_nmX.shape[2:])[: B * T]
            return x_MX.reshape(B, T, *x_MX.shape[1:])

        return jax.tree.map(join, results)

    return local(body, (TOKEN, "- vocab"), TOKEN)(tokens, heads)


def _gather_parts(
    x_mK: jax.Array,
    axes: Axes,
    parts: int,
) -> jax.Array:
    """Return the rows of all parts of the vocabulary next to each other, [m, parts * K], the same
    on every device along `axes`.
    """
    part_pmK = jnp.zeros((parts, *x_mK.shape), x_mK.dtype).at[lax.axis_index(axes)].set(x_mK)
    return jnp.concatenate(list(lax.psum(part_pmK, axes)), 1)
