"""A linear layer trained in FP8 (V3 section 3.3): y = x w with all three products in E4M3.

                      summed over   from the left        from the right
    y_MN  = x w       K             x    in 1 x 128      w   in 128 x 128
    dx_MK = dy w^T    N             dy   in 1 x 128      w^T in 128 x 128
    dw_KN = x^T dy    M             x    in 128 x 1      dy  in 128 x 1

Each is a sum of partial products over 128 terms. A partial product is exact up to the rounding of
its float32 sum, since the product of two E4M3 values is exact in float32; it is multiplied by both
scales and added in float32, which is the paper's promotion every 128. The tensor cores of a Hopper
GPU sum with about 14 bits inside the 128; that is not modelled.

What the backward pass keeps of x is in FP8. For dw its tiles of 1 x 128 become numbers again and
are rounded a second time, in tiles of 128 x 1. These never cross from one sequence into the next,
so that no split of the batch changes a result.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from seekjax.config import Fp8Config
from seekjax.quant.fp8 import BLOCK as LENGTH
from seekjax.quant.fp8 import GRADIENT_FLOOR
from seekjax.quant.tiles import BLOCK, COLUMN, ROW, Tiled, in_e5m6, in_tiles
from sharding.mesh import platform

Kept = Literal["e4m3", "e5m6"]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def linear(
    x_BTK: Array,
    weights: tuple[Array, ...],
    fp8: Fp8Config,
    kept: Kept = "e4m3",
) -> tuple[Array, ...]:
    """Return x times each of the float32 matrices w_KN, [B, T, N] each, in the dtype of x.

    `kept` is the format in which x is kept for the backward pass.
    """
    outputs, _ = _forward(x_BTK, weights, fp8, kept)
    return outputs


def _forward(x_BTK: Array, weights: tuple[Array, ...], fp8: Fp8Config, kept: Kept) -> tuple:
    rows = in_tiles(x_BTK, ROW, fp8.scales)
    blocks = [in_tiles(w_KN, BLOCK, fp8.scales) for w_KN in weights]

    product = product_of(fp8)
    outputs = [product(rows, w).astype(x_BTK.dtype) for w in blocks]

    saved = in_e5m6(x_BTK, ROW) if kept == "e5m6" else rows
    return tuple(outputs), (saved, blocks)


def _backward(fp8: Fp8Config, kept: Kept, residuals: tuple, gradients: tuple[Array, ...]) -> tuple:
    saved, blocks = residuals
    product = product_of(fp8)
    columns = in_tiles(saved.dense(), COLUMN, fp8.scales)

    dx_BTK = jnp.zeros(saved.values.shape, jnp.float32)
    weight_gradients = []
    for w, dy_BTN in zip(blocks, gradients):
        over_N, over_M = gradient_tiles(dy_BTN, fp8)
        dx_BTK += product(over_N, w.T)
        weight_gradients.append(product(columns.T, over_M))
    return dx_BTK.astype(gradients[0].dtype), tuple(weight_gradients)


linear.defvjp(_forward, _backward)


def gradient_tiles(dy: Array, fp8: Fp8Config) -> tuple[Tiled, Tiled]:
    """Return a gradient for the product that sums over its columns, and over its rows.

    In blocks of 128 x 128, one rounding serves both products: what V3 tried and found to diverge
    (appendix B.2).
    """
    rounded = partial(in_tiles, dy, scales=fp8.scales, floor=GRADIENT_FLOOR)
    if fp8.gradients == "block":
        blocks = rounded(BLOCK)
        return blocks, blocks
    return rounded(ROW), rounded(COLUMN)


class Product(NamedTuple):
    """A way to multiply two arrays in tiles, in float32.

    Two arrays with sequences, a [B, K, T] and b [B, T, N], are multiplied sequence by sequence and
    summed.
    """

    # what is done with an operand, once for all products that it enters
    ready: Callable[[Tiled], Any]
    # a @ b of operands that are ready
    multiply: Callable[[Any, Any], Array]

    def __call__(self, a: Tiled, b: Tiled) -> Array:
        """Return a @ b."""
        return self.multiply(self.ready(a), self.ready(b))


def product_of(fp8: Fp8Config) -> Product:
    """Return the product that is set.

    auto: `scaled`, in bfloat16 where that changes no operand: an accelerator needs six passes for a
    product in float32, a CPU gains nothing.
    """
    if fp8.product != "auto":
        return PRODUCTS[fp8.product]
    exact = fp8.scales == "ue8m0" and platform() != "cpu"
    return PRODUCTS["bfloat16" if exact else "scaled"]


def in_parts(a: Tiled, b: Tiled) -> Array:
    """Return a @ b as a float32 sum of partial products over 128 terms: the plain form."""
    if b.values.ndim == 3:
        each_BKN = jax.vmap(in_parts)(a, b)
        return each_BKN.sum(0)

    # Parts of 128 terms in front; missing terms are zeros
    a_values, a_scale = _parts(a.values, -1), _parts(a.scale_of_each(), -1)
    b_values, b_scale = _parts(b.values, 0), _parts(b.scale_of_each(), 0)

    def add(total: Array, part: tuple[Array, ...]) -> tuple[Array, None]:
        a_part, a_scale, b_part, b_scale = part
        partial_product = jnp.matmul(a_part, b_part, precision=lax.Precision.HIGHEST)
        # Within the part all terms of a row of a share a scale, and so do those of a column of b.
        return total + partial_product * a_scale[..., :1] * b_scale[:1], None

    shape = (*a.values.shape[:-1], b.values.shape[-1])
    total, _ = lax.scan(add, jnp.zeros(shape), (a_values, a_scale, b_values, b_scale))
    return total


def _parts(x: Array, axis: int) -> Array:
    """Return x in float32 with an axis cut into parts of 128, which come first."""
    axis %= x.ndim
    missing = [(0, 0)] * x.ndim
    missing[axis] = (0, -x.shape[axis] % LENGTH)
    x = jnp.pad(x.astype(jnp.float32), missing)

    before, after = x.shape[:axis], x.shape[axis + 1 :]
    return jnp.moveaxis(x.reshape(*before, -1, LENGTH, *after), axis, 0)


def scaled(a: Array, b: Array) -> Array:
    """Return the same as `in_parts` by one product of values times scales, summed in float32.

    It differs in the order of the sum, and with operands in float32 in one rounding of each, 2^-24
    of it. A mesh may split the sum, and XLA has a fast kernel for it.
    """
    in_float32 = {"precision": lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}
    if b.ndim == 3:
        a_BKT, b_BTN = a, b
        return jnp.einsum("BKT,BTN->KN", a_BKT, b_BTN, **in_float32)
    return jnp.matmul(a, b, **in_float32)


def in_bfloat16(x: Tiled) -> Array:
    """Return the numbers that are stored, in bfloat16: exact if the scales are powers of two."""
    return x.dense().astype(jnp.bfloat16)


def _as_it_is(x: Tiled) -> Tiled:
    return x


PRODUCTS = {
    "parts": Product(_as_it_is, in_parts),
    "scaled": Product(Tiled.dense, scaled),
    "bfloat16": Product(in_bfloat16, scaled),
}
