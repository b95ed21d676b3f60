"""Negative log likelihood of a target under the output head, without ever holding the logits of all
rows: -log softmax(x w)[target].

Every form is `nll_X(x_MD, w_DV, target_M, axes=()) -> nll_M`, in fp32 whatever the inputs are.
Inside `shard_map`, `axes` names the mesh axes that share out the vocabulary: w_DV is then the local
slice, target_M stays global, and the result is the same on every device along `axes`.

`nll_sum(..., weight_M)` is the sum of weight times `nll`, for a loss whose weights are known in
advance: a quarter fewer matmuls than `nll_chunked`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from sharding.vary import vary, vary_like


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


def nll_chunked(x_MD, w_DV, target_M, axes=(), chunk=1024, rows=512):
    """Goes through the vocabulary `chunk` words at a time with a running logsumexp; the backward
    pass computes each chunk's logits again.

    `rows` bounds the logits held at once to rows x chunk: on CPU few enough to stay in the cache,
    on an accelerator many enough to fill it.
    """
    x_MD, w_DV, target_M = vary(x_MD, w_DV, target_M - _first(w_DV, axes))
    M, D = x_MD.shape
    count = -(-M // rows)
    rows = -(-M // count)
    spare = count * rows - M
    x_nmD = jnp.pad(x_MD, ((0, spare), (0, 0))).reshape(count, rows, D)
    target_nm = jnp.pad(target_M, (0, spare)).reshape(count, rows)
    return _chunked(x_nmD, w_DV, target_nm, tuple(axes), chunk).reshape(-1)[:M]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _chunked(x_nmD, w_DV, target_nm, axes, chunk):
    return _chunked_forward(x_nmD, w_DV, target_nm, axes, chunk)[0]


def _chunked_forward(x_nmD, w_DV, target_nm, axes, chunk):
    def visit(carry, first, fresh_v, w_Dv):
        def tile(arrays):
            x_mD, target_m, max_m, total_m, chosen_m = arrays
            logit_mv, hit_mv = _logits(x_mD, w_Dv, target_m, first)
            logit_mv = jnp.where(fresh_v, logit_mv, -jnp.inf)
            new_m = jnp.maximum(max_m, logit_mv.max(axis=1))
            total_m = total_m * jnp.exp(max_m - new_m) + jnp.exp(logit_mv - new_m[:, None]).sum(
                axis=1
            )
            return new_m, total_m, chosen_m + jnp.where(hit_mv & fresh_v, logit_mv, 0).sum(axis=1)

        return lax.map(tile, (x_nmD, target_nm, *carry))

    zero_nm = jnp.zeros(target_nm.shape, jnp.float32)
    max_nm, total_nm, chosen_nm = _each_chunk(
        visit, vary_like((zero_nm - jnp.inf, zero_nm, zero_nm), x_nmD), w_DV, chunk
    )
    if axes:
        local_nm, max_nm = max_nm, lax.pmax(max_nm, axes)
        total_nm, chosen_nm = lax.psum((total_nm * jnp.exp(local_nm - max_nm), chosen_nm), axes)
    log_total_nm = max_nm + jnp.log(total_nm)
    return log_total_nm - chosen_nm, (x_nmD, w_DV, target_nm, log_total_nm)


def _chunked_backward(axes, chunk, saved, dnll_nm):
    x_nmD, w_DV, target_nm, log_total_nm = saved

    def visit(carry, first, fresh_v, w_Dv):
        dx_nmD, dw_DV = carry

        def tile(dw_Dv, arrays):
            x_mD, target_m, log_total_m, dnll_m, dx_mD = arrays
            logit_mv, hit_mv = _logits(x_mD, w_Dv, target_m, first)
            dlogit_mv = (jnp.exp(logit_mv - log_total_m[:, None]) - hit_mv) * dnll_m[:, None]
            dlogit_mv = jnp.where(fresh_v, dlogit_mv, 0).astype(x_mD.dtype)
            dx_mD += jnp.einsum("mv,Dv->mD", dlogit_mv, w_Dv, preferred_element_type=jnp.float32)
            return dw_Dv + jnp.einsum(
                "mD,mv->Dv", x_mD, dlogit_mv, preferred_element_type=jnp.float32
            ), dx_mD

        zero_Dv = vary_like(jnp.zeros(w_Dv.shape, jnp.float32), x_nmD)
        dw_Dv, dx_nmD = lax.scan(tile, zero_Dv, (x_nmD, target_nm, log_total_nm, dnll_nm, dx_nmD))
        dw_Dv = jnp.where(
            fresh_v,
            dw_Dv.astype(w_DV.dtype),
            lax.dynamic_slice_in_dim(dw_DV, first, w_Dv.shape[1], 1),
        )
        return dx_nmD, lax.dynamic_update_slice_in_dim(dw_DV, dw_Dv, first, 1)

    carry = vary_like((jnp.zeros(x_nmD.shape, jnp.float32), jnp.zeros_like(w_DV)), x_nmD)
    dx_nmD, dw_DV = _each_chunk(visit, carry, w_DV, chunk)
    return dx_nmD.astype(x_nmD.dtype), dw_DV, None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def nll_sum(x_MD, w_DV, target_M, weight_M, axes=(), rows=512):
    """sum_m weight_m nll_m over this device's rows, a scalar. No gradient with respect to weight_M.

    Goes through `rows` rows at a time with the whole vocabulary (held: rows x V). Each row's weight
    in the sum being known, its part of the gradient is taken while its logits are at hand, and the
    backward pass only scales: three matmuls instead of four (arXiv:2410.10989, section 3.2).
    """
    x_MD, w_DV, target_M, weight_M = vary(
        x_MD, w_DV, target_M - _first(w_DV, axes), lax.stop_gradient(weight_M).astype(jnp.float32)
    )
    M = x_MD.shape[0]
    count = -(-M // rows)
    rows = -(-M // count)

    def tiles(a_MX):
        return jnp.pad(a_MX, ((0, count * rows - M), *((0, 0),) * (a_MX.ndim - 1))).reshape(
            count, rows, *a_MX.shape[1:]
        )

    return _sum(tiles(x_MD), w_DV, tiles(target_M), tiles(weight_M), tuple(axes))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _sum(x_nmD, w_DV, target_nm, weight_nm, axes):
    nll_n = lax.map(
        lambda tile: _tile_sum(tile[0], w_DV, *tile[1:], axes)[0], (x_nmD, target_nm, weight_nm)
    )
    return nll_n.sum()


def _sum_forward(x_nmD, w_DV, target_nm, weight_nm, axes):
    def tile(dw_DV, arrays):
        x_mD, target_m, weight_m = arrays
        nll, logit_mV, hit_mV, log_total_m = _tile_sum(x_mD, w_DV, target_m, weight_m, axes)
        dlogit_mV = (
            (jnp.exp(logit_mV - log_total_m[:, None]) - hit_mV) * weight_m[:, None]
        ).astype(x_mD.dtype)
        dx_mD = jnp.einsum("mV,DV->mD", dlogit_mV, w_DV)
        return dw_DV + jnp.einsum(
            "mD,mV->DV", x_mD, dlogit_mV, preferred_element_type=jnp.float32
        ), (nll, dx_mD)

    zero_DV = vary_like(jnp.zeros(w_DV.shape, jnp.float32), x_nmD)
    dw_DV, (nll_n, dx_nmD) = lax.scan(tile, zero_DV, (x_nmD, target_nm, weight_nm))
    return nll_n.sum(), (dx_nmD, dw_DV.astype(w_DV.dtype))


def _sum_backward(axes, saved, dsum):
    dx_nmD, dw_DV = saved
    return (dx_nmD * dsum).astype(dx_nmD.dtype), (dw_DV * dsum).astype(dw_DV.dtype), None, None


_sum.defvjp(_sum_forward, _sum_backward)


def _tile_sum(x_mD, w_DV, target_m, weight_m, axes):
    """One tile's share of the sum, with what its gradient needs: logits, which of them is the
    target, log of the sum of exponentials."""
    logit_mV, hit_mV = _logits(x_mD, w_DV, target_m, 0)
    max_m = logit_mV.max(axis=1)
    if axes:
        max_m = lax.pmax(max_m, axes)
    total_m = jnp.exp(logit_mV - max_m[:, None]).sum(axis=1)
    chosen_m = jnp.where(hit_mV, logit_mV, 0).sum(axis=1)
    if axes:
        total_m, chosen_m = lax.psum((total_m, chosen_m), axes)
        weight_m = lax.pmax(weight_m, axes)  # the same everywhere along axes: this only says so
    log_total_m = max_m + jnp.log(total_m)
    return (weight_m * (log_total_m - chosen_m)).sum(), logit_mV, hit_mV, log_total_m


def _logits(x_mD, w_Dv, target_m, first):
    """The logits of one chunk of words in fp32, and which of them is the target."""
    logit_mv = jnp.einsum("mD,Dv->mv", x_mD, w_Dv, preferred_element_type=jnp.float32)
    return logit_mv, jnp.arange(w_Dv.shape[1]) == (target_m - first)[:, None]


def _each_chunk(visit, carry, w_DV, chunk):
    """Fold `visit(carry, first, fresh_v, w_Dv)` over equal chunks of words; where the last one
    overlaps the one before, fresh_v marks the new words."""
    V = w_DV.shape[1]
    count = -(-V // chunk)
    width = -(-V // count)

    def step(carry, index):
        first = jnp.minimum(index * width, V - width)
        fresh_v = first + jnp.arange(width) >= index * width
        return visit(carry, first, fresh_v, lax.dynamic_slice_in_dim(w_DV, first, width, 1)), None

    return lax.scan(step, carry, jnp.arange(count))[0]


def _first(w_DV, axes):
    """The global id of the first word of this device's slice."""
    return lax.axis_index(axes) * w_DV.shape[1] if axes else 0
