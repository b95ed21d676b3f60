"""Negative log likelihood of a target under the output head, without holding the logits of all
rows: -log softmax(x w)[target].

Every form is `nll_X(x_MD, w_DV, target_M, axes=()) -> nll_M`, in fp32 whatever the inputs are.
Inside `shard_map`, `axes` names the mesh axes that share out the vocabulary: w_DV is then the local
slice, target_M stays global, and the result is the same on every device along `axes`.

`nll_sum(..., weight_M)` is the sum of weight times `nll`, for a loss whose weights are known in
advance: it needs a quarter fewer matmuls than `nll_chunked`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seekjax.kernels.logits import Axes, first_token, log_sum_exp, row_tiles
from sharding.vary import vary, vary_like


def nll_plain(
    x_MD: jax.Array,
    w_DV: jax.Array,
    target_M: jax.Array,
    axes: Axes = (),
) -> jax.Array:
    """Return nll_M from all logits at once, M x V: the plain form."""
    x_MD, w_DV, target_M = vary(x_MD, w_DV, target_M)
    logit_MV = jnp.einsum("MD,DV->MV", x_MD, w_DV, preferred_element_type=jnp.float32)
    local_M = target_M - first_token(w_DV.shape[1], axes)
    hit_MV = jnp.arange(w_DV.shape[1]) == local_M[:, None]

    chosen_M = jnp.where(hit_MV, logit_MV, 0).sum(axis=1)
    log_total_M, chosen_M = log_sum_exp(logit_MV, axes, chosen_M)
    return log_total_M - chosen_M


def nll_chunked(
    x_MD: jax.Array,
    w_DV: jax.Array,
    target_M: jax.Array,
    axes: Axes = (),
    chunk: int = 1024,
    rows: int = 512,
) -> jax.Array:
    """Return nll_M from `chunk` tokens of the vocabulary at a time, with a running logsumexp.

    The backward pass computes each chunk's logits again. `rows` bounds the logits held at once to
    rows x chunk: on CPU few enough to stay in the cache, on an accelerator many enough to fill it.
    """
    M = x_MD.shape[0]
    x_MD, w_DV, target_M = vary(x_MD, w_DV, target_M - first_token(w_DV.shape[1], axes))
    nll_nm = _chunked(row_tiles(x_MD, rows), w_DV, row_tiles(target_M, rows), tuple(axes), chunk)
    return nll_nm.reshape(-1)[:M]


def _chunked_value(
    x_nmD: jax.Array,
    w_DV: jax.Array,
    target_nm: jax.Array,
    axes: Axes,
    chunk: int,
) -> jax.Array:
    return _chunked_forward(x_nmD, w_DV, target_nm, axes, chunk)[0]


def _chunked_forward(x_nmD, w_DV, target_nm, axes, chunk):
    def visit(carry, first, fresh_v, w_Dv):
        """Update the running maximum, sum of exponentials and target logit of every row."""

        def tile(arrays):
            x_mD, target_m, max_m, total_m, chosen_m = arrays
            logit_mv, hit_mv = _logits(x_mD, w_Dv, target_m, first)
            logit_mv = jnp.where(fresh_v, logit_mv, -jnp.inf)

            new_m = jnp.maximum(max_m, logit_mv.max(axis=1))
            fresh_total_m = jnp.exp(logit_mv - new_m[:, None]).sum(axis=1)
            total_m = total_m * jnp.exp(max_m - new_m) + fresh_total_m
            chosen_m = chosen_m + jnp.where(hit_mv & fresh_v, logit_mv, 0).sum(axis=1)
            return new_m, total_m, chosen_m

        return lax.map(tile, (x_nmD, target_nm, *carry))

    zero_nm = jnp.zeros(target_nm.shape, jnp.float32)
    start = vary_like((zero_nm - jnp.inf, zero_nm, zero_nm), x_nmD)
    max_nm, total_nm, chosen_nm = _each_chunk(visit, start, w_DV, chunk)

    # Join the parts of a split vocabulary.
    if axes:
        local_nm, max_nm = max_nm, lax.pmax(max_nm, axes)
        total_nm, chosen_nm = lax.psum((total_nm * jnp.exp(local_nm - max_nm), chosen_nm), axes)
    log_total_nm = max_nm + jnp.log(total_nm)
    return log_total_nm - chosen_nm, (x_nmD, w_DV, target_nm, log_total_nm)


def _chunked_backward(axes, chunk, saved, dnll_nm):
    x_nmD, w_DV, target_nm, log_total_nm = saved

    def visit(carry, first, fresh_v, w_Dv):
        """Add the chunk's part of dx, and write its columns of dw."""
        dx_nmD, dw_DV = carry

        def tile(dw_Dv, arrays):
            x_mD, target_m, log_total_m, dnll_m, dx_mD = arrays
            logit_mv, hit_mv = _logits(x_mD, w_Dv, target_m, first)
            dlogit_mv = (jnp.exp(logit_mv - log_total_m[:, None]) - hit_mv) * dnll_m[:, None]
            dlogit_mv = jnp.where(fresh_v, dlogit_mv, 0).astype(x_mD.dtype)

            dx_mD += jnp.einsum("mv,Dv->mD", dlogit_mv, w_Dv, preferred_element_type=jnp.float32)
            dw_Dv += jnp.einsum("mD,mv->Dv", x_mD, dlogit_mv, preferred_element_type=jnp.float32)
            return dw_Dv, dx_mD

        zero_Dv = vary_like(jnp.zeros(w_Dv.shape, jnp.float32), x_nmD)
        dw_Dv, dx_nmD = lax.scan(tile, zero_Dv, (x_nmD, target_nm, log_total_nm, dnll_nm, dx_nmD))

        # Where the last chunk overlaps the one before, keep what is there.
        old_Dv = lax.dynamic_slice_in_dim(dw_DV, first, w_Dv.shape[1], 1)
        dw_Dv = jnp.where(fresh_v, dw_Dv.astype(w_DV.dtype), old_Dv)
        return dx_nmD, lax.dynamic_update_slice_in_dim(dw_DV, dw_Dv, first, 1)

    start = vary_like((jnp.zeros(x_nmD.shape, jnp.float32), jnp.zeros_like(w_DV)), x_nmD)
    dx_nmD, dw_DV = _each_chunk(visit, start, w_DV, chunk)
    return dx_nmD.astype(x_nmD.dtype), dw_DV, None


_chunked = jax.custom_vjp(_chunked_value, nondiff_argnums=(3, 4))
_chunked.defvjp(_chunked_forward, _chunked_backward)


def nll_sum(
    x_MD: jax.Array,
    w_DV: jax.Array,
    target_M: jax.Array,
    weight_M: jax.Array,
    axes: Axes = (),
    rows: int = 512,
) -> jax.Array:
    """Return sum_m weight_m nll_m over this device's rows, a scalar.

    weight_M gets no gradient. The sum visits `rows` rows at a time with the whole vocabulary (held:
    rows x V). Because each row's weight in the sum is known, its part of the gradient is computed
    while its logits are at hand, and the backward pass only scales: three matmuls instead of four
    (arXiv:2410.10989, section 3.2).
    """
    local_M = target_M - first_token(w_DV.shape[1], axes)
    weight_M = lax.stop_gradient(weight_M).astype(jnp.float32)
    x_MD, w_DV, local_M, weight_M = vary(x_MD, w_DV, local_M, weight_M)

    x_nmD, target_nm, weight_nm = (row_tiles(a_MX, rows) for a_MX in (x_MD, local_M, weight_M))
    return _sum(x_nmD, w_DV, target_nm, weight_nm, tuple(axes))


def _sum_value(
    x_nmD: jax.Array,
    w_DV: jax.Array,
    target_nm: jax.Array,
    weight_nm: jax.Array,
    axes: Axes,
) -> jax.Array:
    def tile(arrays):
        x_mD, target_m, weight_m = arrays
        nll, _, _, _ = _tile_sum(x_mD, w_DV, target_m, weight_m, axes)
        return nll

    return lax.map(tile, (x_nmD, target_nm, weight_nm)).sum()


def _sum_forward(x_nmD, w_DV, target_nm, weight_nm, axes):
    def tile(dw_DV, arrays):
        x_mD, target_m, weight_m = arrays
        nll, logit_mV, hit_mV, log_total_m = _tile_sum(x_mD, w_DV, target_m, weight_m, axes)

        dnll_mV = jnp.exp(logit_mV - log_total_m[:, None]) - hit_mV
        dlogit_mV = (dnll_mV * weight_m[:, None]).astype(x_mD.dtype)
        dx_mD = jnp.einsum("mV,DV->mD", dlogit_mV, w_DV)
        dw_DV += jnp.einsum("mD,mV->DV", x_mD, dlogit_mV, preferred_element_type=jnp.float32)
        return dw_DV, (nll, dx_mD)

    zero_DV = vary_like(jnp.zeros(w_DV.shape, jnp.float32), x_nmD)
    dw_DV, (nll_n, dx_nmD) = lax.scan(tile, zero_DV, (x_nmD, target_nm, weight_nm))
    return nll_n.sum(), (dx_nmD, dw_DV.astype(w_DV.dtype))


def _sum_backward(axes, saved, dsum):
    dx_nmD, dw_DV = saved
    return (dx_nmD * dsum).astype(dx_nmD.dtype), (dw_DV * dsum).astype(dw_DV.dtype), None, None


_sum = jax.custom_vjp(_sum_value, nondiff_argnums=(4,))
_sum.defvjp(_sum_forward, _sum_backward)


def _tile_sum(
    x_mD: jax.Array,
    w_DV: jax.Array,
    target_m: jax.Array,
    weight_m: jax.Array,
    axes: Axes,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return one tile's part of the sum, and what its gradient needs: the logits, which of them is
    the target, and the log of the sum of exponentials.
    """
    logit_mV, hit_mV = _logits(x_mD, w_DV, target_m, 0)
    chosen_m = jnp.where(hit_mV, logit_mV, 0).sum(axis=1)
    log_total_m, chosen_m = log_sum_exp(logit_mV, axes, chosen_m)
    if axes:
        # The weights are equal along axes already: pmax only tells the type system.
        weight_m = lax.pmax(weight_m, axes)
    return (weight_m * (log_total_m - chosen_m)).sum(), logit_mV, hit_mV, log_total_m


def _logits(
    x_mD: jax.Array,
    w_Dv: jax.Array,
    target_m: jax.Array,
    first: jax.Array | int,
) -> tuple[jax.Array, jax.Array]:
    """Return the logits of one chunk of tokens in fp32, and which of them is the target."""
    logit_mv = jnp.einsum("mD,Dv->mv", x_mD, w_Dv, preferred_element_type=jnp.float32)
    return logit_mv, jnp.arange(w_Dv.shape[1]) == (target_m - first)[:, None]


def _each_chunk(
    visit: Callable[..., Any],
    carry: Any,
    w_DV: jax.Array,
    chunk: int,
) -> Any:
    """Fold `visit(carry, first, fresh_v, w_Dv)` over equal chunks of the vocabulary.

    The last chunk may overlap the one before; fresh_v marks the tokens that are new.
    """
    V = w_DV.shape[1]
    count = -(-V // chunk)
    width = -(-V // count)

    def step(carry, index):
        first = jnp.minimum(index * width, V - width)
        fresh_v = first + jnp.arange(width) >= index * width
        w_Dv = lax.dynamic_slice_in_dim(w_DV, first, width, 1)
        return visit(carry, first, fresh_v, w_Dv), None

    carry, _ = lax.scan(step, carry, jnp.arange(count))
    return carry
