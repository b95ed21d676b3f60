"""Negative log likelihood of a target under the output head, without ever holding the logits of all rows: -log softmax(x w)[target].

Every form is `nll_X(x_MD, w_DV, target_M, axes=()) -> nll_M`, in fp32 whatever the inputs are. Inside `shard_map`, `axes` names the mesh axes that
share out the vocabulary: w_DV is then the local slice, target_M stays global, and the result is the same on every device along `axes`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from seekjax.kernels.vary import vary, vary_like


def nll_plain(x_MD, w_DV, target_M, axes=()):
    """Plain form: holds all logits, M x V."""
    x_MD, w_DV, target_M = vary(x_MD, w_DV, target_M)
    logit_MV = jnp.einsum("MD,DV->MV", x_MD, w_DV, preferred_element_type=jnp.float32)
    hit_MV = jnp.arange(w_DV.shape[1]) == (target_M - _first(w_DV, axes))[:, None]
    max_M = lax.stop_gradient(logit_MV).max(axis=1)
    if axes:
        max_M = lax.pmax(max_M, axes)
    total_M = jnp.exp(logit_MV - max_M[:, None]).sum(axis=1)
    chosen_M = jnp.where(hit_MV, logit_MV, 0).sum(axis=1)
    if axes:
        total_M, chosen_M = lax.psum((total_M, chosen_M), axes)
    return max_M + jnp.log(total_M) - chosen_M


def nll_chunked(x_MD, w_DV, target_M, axes=(), chunk=2048):
    """Goes through the vocabulary `chunk` words at a time with a running logsumexp; the backward pass computes each chunk's logits again."""
    x_MD, w_DV, target_M = vary(x_MD, w_DV, target_M)
    return _chunked(x_MD, w_DV, target_M - _first(w_DV, axes), tuple(axes), chunk)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _chunked(x_MD, w_DV, target_M, axes, chunk):
    return _chunked_forward(x_MD, w_DV, target_M, axes, chunk)[0]


def _chunked_forward(x_MD, w_DV, target_M, axes, chunk):
    def visit(carry, first, fresh_V, w_DV):
        max_M, total_M, chosen_M = carry
        logit_MV, hit_MV = _logits(x_MD, w_DV, target_M, first)
        logit_MV = jnp.where(fresh_V, logit_MV, -jnp.inf)
        new_M = jnp.maximum(max_M, logit_MV.max(axis=1))
        total_M = total_M * jnp.exp(max_M - new_M) + jnp.exp(logit_MV - new_M[:, None]).sum(axis=1)
        return new_M, total_M, chosen_M + jnp.where(hit_MV & fresh_V, logit_MV, 0).sum(axis=1)

    zero_M = jnp.zeros(x_MD.shape[0], jnp.float32)
    max_M, total_M, chosen_M = _each_chunk(visit, vary_like((zero_M - jnp.inf, zero_M, zero_M), x_MD), w_DV, chunk)
    if axes:
        local_M, max_M = max_M, lax.pmax(max_M, axes)
        total_M, chosen_M = lax.psum((total_M * jnp.exp(local_M - max_M), chosen_M), axes)
    log_total_M = max_M + jnp.log(total_M)
    return log_total_M - chosen_M, (x_MD, w_DV, target_M, log_total_M)


def _chunked_backward(axes, chunk, saved, dnll_M):
    x_MD, w_DV, target_M, log_total_M = saved

    def visit(carry, first, fresh_V, w_DV):
        dx_MD, dw_DV = carry
        logit_MV, hit_MV = _logits(x_MD, w_DV, target_M, first)
        dlogit_MV = (jnp.exp(logit_MV - log_total_M[:, None]) - hit_MV) * dnll_M[:, None]
        dlogit_MV = jnp.where(fresh_V, dlogit_MV, 0).astype(x_MD.dtype)
        dx_MD = dx_MD + jnp.einsum("MV,DV->MD", dlogit_MV, w_DV, preferred_element_type=jnp.float32)
        part_DV = jnp.einsum("MD,MV->DV", x_MD, dlogit_MV).astype(w_DV.dtype)
        old_DV = lax.dynamic_slice_in_dim(dw_DV, first, w_DV.shape[1], 1)
        return dx_MD, lax.dynamic_update_slice_in_dim(dw_DV, jnp.where(fresh_V, part_DV, old_DV), first, 1)

    carry = vary_like((jnp.zeros(x_MD.shape, jnp.float32), jnp.zeros_like(w_DV)), x_MD)
    dx_MD, dw_DV = _each_chunk(visit, carry, w_DV, chunk)
    return dx_MD.astype(x_MD.dtype), dw_DV, None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _logits(x_MD, w_DV, target_M, first):
    """The logits of one chunk of words in fp32, and which of them is the target."""
    logit_MV = jnp.einsum("MD,DV->MV", x_MD, w_DV, preferred_element_type=jnp.float32)
    return logit_MV, jnp.arange(w_DV.shape[1]) == (target_M - first)[:, None]


def _each_chunk(visit, carry, w_DV, chunk):
    """Fold `visit(carry, first, fresh_V, w_DV)` over equal chunks of words; where the last one overlaps the one before, fresh_V marks the new words."""
    V = w_DV.shape[1]
    count = -(-V // chunk)
    width = -(-V // count)

    def step(carry, index):
        first = jnp.minimum(index * width, V - width)
        fresh_V = first + jnp.arange(width) >= index * width
        return visit(carry, first, fresh_V, lax.dynamic_slice_in_dim(w_DV, first, width, 1)), None

    return lax.scan(step, carry, jnp.arange(count))[0]


def _first(w_DV, axes):
    """The global id of the first word of this device's slice."""
    return lax.axis_index(axes) * w_DV.shape[1] if axes else 0
