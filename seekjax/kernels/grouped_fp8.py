"""Expert feed-forward over rows sorted by expert, with all products in FP8 (V3 section 3.3).

The interface is that of `grouped`; the arithmetic is that of `fp8`, expert by expert. The 128 rows
that share a scale in the gradient of a weight are 128 rows of one expert, in the order in which
they are sorted, and fewer at the end. So this gradient depends on which rows a device has: where
devices that hold the same expert share out the batch, it differs from that of one device by the
rounding of FP8. Everything else is the same on every mesh.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from seekjax.config import Fp8Config
from seekjax.kernels.fp8 import gradient_tiles, product_of
from seekjax.kernels.grouped import mixed, silu, tile_sizes
from seekjax.kernels.row_tiles import RowTile, each_tile
from seekjax.quant.fp8 import BLOCK as LENGTH
from seekjax.quant.tiles import BLOCK, COLUMN, ROW, Tiled, in_tiles
from sharding.vary import vary, vary_like


def experts_fp8(
    x_MD: Array,
    mix_M: Array,
    w_gate_EDF: Array,
    w_up_EDF: Array,
    w_down_EFD: Array,
    size_E: Array,
    fp8: Fp8Config,
) -> Array:
    """Apply each expert to its rows; the weights are float32 arrays. See `grouped` for the rest."""
    x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E = vary(
        x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E
    )
    into: Any = grouped_linear(x_MD, (w_gate_EDF, w_up_EDF), size_E, fp8)
    gate_MF, up_MF = into
    gate_MF = checkpoint_name(gate_MF, "product")
    up_MF = checkpoint_name(up_MF, "product")
    hidden_MF = jax.checkpoint(_hidden)(gate_MF, up_MF, mix_M)
    out: Any = grouped_linear(hidden_MF, (w_down_EFD,), size_E, fp8)
    return out[0]


def _hidden(gate_MF: Array, up_MF: Array, mix_M: Array) -> Array:
    """Return the input of the last product, which the backward pass computes again (V3 section
    3.3.3): it keeps gate and up.
    """
    return mixed(silu(gate_MF) * up_MF, mix_M)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def grouped_linear(
    x_MK: Array,
    weights: tuple[Array, ...],
    size_E: Array,
    fp8: Fp8Config,
) -> tuple[Array, ...]:
    """Return each row times its expert's matrix of each of the w_EKN, [M, N] each.

    The rows of no expert, at the end, have zero output and zero gradient.
    """
    outputs, _ = _forward(x_MK, weights, size_E, fp8)
    return outputs


def _forward(x_MK: Array, weights: tuple[Array, ...], size_E: Array, fp8: Fp8Config) -> tuple:
    (M, _), (E,) = x_MK.shape, size_E.shape
    rows = in_tiles(x_MK, ROW, fp8.scales)
    blocks = [in_tiles(w_EKN, BLOCK, fp8.scales) for w_EKN in weights]
    product = product_of(fp8)
    rounded_MK = product.ready(rows)
    end_E = jnp.cumsum(size_E)

    def expert(number: Array, outputs: tuple[Array, ...]) -> tuple[Array, ...]:
        own_weights = [product.ready(_entry(w, number)) for w in blocks]

        def visit(tile: RowTile, outputs: tuple[Array, ...]) -> tuple[Array, ...]:
            # of E4M3 numbers and of their scales, or of their products
            x_mK = jax.tree.map(tile.read, rounded_MK)
            written = []
            for y_MN, w_KN in zip(outputs, own_weights):
                y_mN = product.multiply(x_mK, w_KN).astype(y_MN.dtype)
                written.append(tile.write(y_MN, y_mN))
            return tuple(written)

        end = end_E[number]
        return each_tile(visit, outputs, end - size_E[number], end, M, tile_sizes(M, E))

    zeros = [jnp.zeros((M, w_EKN.shape[-1]), x_MK.dtype) for w_EKN in weights]
    outputs = lax.fori_loop(0, E, expert, vary_like(tuple(zeros), x_MK))
    return outputs, (rows, blocks, size_E)


def _backward(fp8: Fp8Config, residuals: tuple, gradients: tuple[Array, ...]) -> tuple:
    rows, blocks, size_E = residuals
    x_MK = rows.dense()
    (M, _), (E,) = x_MK.shape, size_E.shape
    end_E = jnp.cumsum(size_E)
    length = min(LENGTH, M)
    product = product_of(fp8)

    def expert(number: Array, sums: tuple) -> tuple:
        dx_MK, weight_gradients = sums
        turned_weights = [product.ready(_entry(w, number).T) for w in blocks]

        def visit(tile: RowTile, sums: tuple) -> tuple:
            dx_MK, own_gradients = sums

            # Another expert's rows become zeros, which change no scale and no sum.
            x_mK = tile.only_own(tile.read(x_MK))
            columns_Km = in_tiles(x_mK, COLUMN, fp8.scales).T

            dx_mK, added = jnp.zeros_like(x_mK), []
            for dw_KN, w_NK, dy_MN in zip(own_gradients, turned_weights, gradients):
                dy_mN = tile.only_own(tile.read(dy_MN))
                over_N, over_M = gradient_tiles(dy_mN, fp8)
                dx_mK += product.multiply(product.ready(over_N), w_NK)
                added.append(dw_KN + product(columns_Km, over_M))
            return tile.write(dx_MK, dx_mK.astype(dx_MK.dtype)), tuple(added)

        zeros = [jnp.zeros(w.values.shape[1:], jnp.float32) for w in blocks]
        start = (dx_MK, vary_like(tuple(zeros), x_MK))
        end = end_E[number]
        dx_MK, own_gradients = each_tile(visit, start, end - size_E[number], end, M, (length,))

        written = []
        for dw_EKN, dw_KN in zip(weight_gradients, own_gradients):
            written.append(dw_EKN.at[number].set(dw_KN))
        return dx_MK, tuple(written)

    dx_MK = jnp.zeros(x_MK.shape, gradients[0].dtype)
    weight_gradients = [jnp.zeros(w.values.shape, jnp.float32) for w in blocks]
    start = vary_like((dx_MK, tuple(weight_gradients)), x_MK)
    dx_MK, weight_gradients = lax.fori_loop(0, E, expert, start)
    return dx_MK, weight_gradients, None


grouped_linear.defvjp(_forward, _backward)


def _entry(w_EKN: Tiled, number: Array) -> Tiled:
    """Return the matrix of one expert."""
    return w_EKN.replace(values=w_EKN.values[number], scale=w_EKN.scale[number])
