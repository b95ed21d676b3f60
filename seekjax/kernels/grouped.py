"""Expert feed-forward over rows already sorted by expert: y = (mix * silu(x @ gate) * (x @ up)) @
down with each row's own expert.

Every form is `experts_X(x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E) -> y_MD`. The first
size_E[0] rows belong to expert 0, the next size_E[1] to expert 1, and so on; sum(size_E) <= M, and
the rows past the sum have zero output and zero gradient. mix (float32) is the weight that the
router gives the row's expert. It enters before the last product: so its gradient needs the hidden
values, which are kept anyway, instead of the outputs, and no backward pass has to keep the outputs,
compute them again or send them back between devices again. Weights may be Quantised: each form
converts them as suits it, one expert at a time or all at once. DeepSeek-V2 (arXiv:2405.04434)
equation 20, one routed expert.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from seekjax.kernels.row_tiles import each_tile
from seekjax.quant.formats import Quantised, Weight, dense
from sharding.vary import vary, vary_like

# Row tiles of `experts_block`, tried in this order: as many large tiles as fit, then one small tile
# for the rest of the expert. Below 128 rows XLA's CPU matmul loses more to starting its threads
# than the smaller tile saves; above 256 the last tile wastes more than the larger matmul gains.
TILES = (256, 128)
# Used instead if an expert has fewer rows than a tile on average, as when reading a prompt.
SMALL_TILES = (64, 32)


def pick(platform: str) -> Callable[..., jax.Array]:
    """Return the fastest form on a platform ("cpu", "gpu" or "tpu").

    `lax.ragged_dot` is a native grouped kernel on TPU, dense and masked on CPU (E times the work).
    """
    return experts_block if platform == "cpu" else experts_ragged


def experts_loop(
    x_MD: jax.Array,
    mix_M: jax.Array,
    w_gate_EDF: Weight,
    w_up_EDF: Weight,
    w_down_EFD: Weight,
    size_E: jax.Array,
) -> jax.Array:
    """Apply every expert to every row and keep each row's own: the plain form, E times the work."""
    weights = _all_dense(x_MD.dtype, w_gate_EDF, w_up_EDF, w_down_EFD)
    x_MD, mix_M, gate_EDF, up_EDF, down_EFD, size_E = vary(x_MD, mix_M, *weights, size_E)
    end_E = jnp.cumsum(size_E)
    row_M = jnp.arange(x_MD.shape[0])

    def expert(y_MD, weights):
        w_gate_DF, w_up_DF, w_down_FD, start, end = weights
        hidden_MF = silu(x_MD @ w_gate_DF) * (x_MD @ w_up_DF)
        out_MD = mixed(hidden_MF, mix_M) @ w_down_FD
        own_M = (start <= row_M) & (row_M < end)
        return jnp.where(own_M[:, None], out_MD, y_MD), None

    zero_MD = vary_like(jnp.zeros_like(x_MD), x_MD)
    experts = (gate_EDF, up_EDF, down_EFD, end_E - size_E, end_E)
    y_MD, _ = lax.scan(expert, zero_MD, experts)
    return y_MD


def experts_ragged(
    x_MD: jax.Array,
    mix_M: jax.Array,
    w_gate_EDF: Weight,
    w_up_EDF: Weight,
    w_down_EFD: Weight,
    size_E: jax.Array,
) -> jax.Array:
    """Apply three `lax.ragged_dot`, XLA's own grouped matmul: native on TPU."""
    weights = _all_dense(x_MD.dtype, w_gate_EDF, w_up_EDF, w_down_EFD)
    x_MD, mix_M, gate_EDF, up_EDF, down_EFD, size_E = vary(x_MD, mix_M, *weights, size_E)

    # What a native kernel leaves in the rows of no expert is unspecified, forward and backward:
    # mask on the way in and on the way out.
    own_M1 = (jnp.arange(x_MD.shape[0]) < jnp.sum(size_E))[:, None]
    x_MD = jnp.where(own_M1, x_MD, 0)
    gate_MF = lax.ragged_dot(x_MD, gate_EDF, size_E)
    up_MF = lax.ragged_dot(x_MD, up_EDF, size_E)
    hidden_MF = jnp.where(own_M1, mixed(silu(gate_MF) * up_MF, mix_M), 0)
    return jnp.where(own_M1, lax.ragged_dot(hidden_MF, down_EFD, size_E), 0)


def experts_block(
    x_MD: jax.Array,
    mix_M: jax.Array,
    w_gate_EDF: Weight,
    w_up_EDF: Weight,
    w_down_EFD: Weight,
    size_E: jax.Array,
) -> jax.Array:
    """Apply each expert to tiles of its rows, in loops whose length follows the data.

    The work is proportional to sum(size_E), whatever M and E are.
    """
    arrays = vary(x_MD, mix_M[:, None], w_gate_EDF, w_up_EDF, w_down_EFD, size_E)
    if isinstance(w_gate_EDF, Quantised):
        # Quantised weights are not trained, so no gradient is needed.
        y_MD, _ = _block_forward(*arrays)
        return y_MD
    return _block(*arrays)


@jax.custom_vjp
def _block(x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E):
    y_MD, _ = _block_forward(x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E)
    return y_MD


def _block_forward(x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E):
    """Return y_MD, and what the backward pass needs: the inputs, and x @ gate next to x @ up."""
    (M, _), (E, _, F) = x_MD.shape, w_gate_EDF.shape
    end_E = jnp.cumsum(size_E)
    small = _small_experts(M, E)

    def expert(number, outputs):
        w_gate_DF = dense(w_gate_EDF[number], x_MD.dtype)
        w_up_DF = dense(w_up_EDF[number], x_MD.dtype)
        w_down_FD = dense(w_down_EFD[number], x_MD.dtype)
        w_into = (w_gate_DF, w_up_DF) if small else (_joined(w_gate_DF, w_up_DF),)

        def visit(tile, outputs):
            y_MD, in_MJ = outputs
            x_mD = tile.read(x_MD)
            in_mJ = jnp.concatenate([x_mD @ w_DX for w_DX in w_into], -1)
            gate_mF, up_mF = jnp.split(in_mJ, 2, -1)
            hidden_mF = mixed(silu(gate_mF) * up_mF, tile.read(mix_M1))
            return tile.write(y_MD, hidden_mF @ w_down_FD), tile.write(in_MJ, in_mJ)

        end = end_E[number]
        return each_tile(visit, outputs, end - size_E[number], end, M, tile_sizes(M, E))

    zeros = (jnp.zeros_like(x_MD), jnp.zeros((M, 2 * F), x_MD.dtype))
    y_MD, in_MJ = lax.fori_loop(0, E, expert, vary_like(zeros, x_MD))

    in_MJ = checkpoint_name(in_MJ, "product")
    return y_MD, (x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E, in_MJ)


def _block_backward(saved, dy_MD):
    x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E, in_MJ = saved
    M, E = x_MD.shape[0], size_E.shape[0]
    end_E = jnp.cumsum(size_E)

    def expert(number, gradients):
        dx_MD, dmix_M1, dw_gate_EDF, dw_up_EDF, dw_down_EFD = gradients
        w_in_DJ = _joined(w_gate_EDF[number], w_up_EDF[number])
        w_down_FD = w_down_EFD[number]

        def visit(tile, gradients):
            dx_MD, dmix_M1, dw_in_DJ, dw_down_FD = gradients
            x_mD, mix_m1, in_mJ = tile.read(x_MD), tile.read(mix_M1), tile.read(in_MJ)
            # Without its dy, another expert's row adds nothing to the sums over rows.
            dy_mD = tile.only_own(tile.read(dy_MD))

            din_mJ, dmix_m1, hidden_mF = _tile_gradients(in_mJ, mix_m1, dy_mD, w_down_FD)
            dw_in_DJ += outer(x_mD, din_mJ)
            dw_down_FD += outer(mixed(hidden_mF, mix_m1), dy_mD)
            dx_MD = tile.write(dx_MD, din_mJ @ w_in_DJ.T)
            dmix_M1 = tile.write(dmix_M1, dmix_m1)
            return dx_MD, dmix_M1, dw_in_DJ, dw_down_FD

        # The gradients of the expert's weights add up over its tiles in float32.
        zeros = (jnp.zeros(w_in_DJ.shape, jnp.float32), jnp.zeros(w_down_FD.shape, jnp.float32))
        start = (dx_MD, dmix_M1, *vary_like(zeros, x_MD))
        end = end_E[number]
        sums = each_tile(visit, start, end - size_E[number], end, M, tile_sizes(M, E))

        dx_MD, dmix_M1, dw_in_DJ, dw_down_FD = sums
        dw_gate_DF, dw_up_DF = jnp.split(dw_in_DJ, 2, -1)
        dw_gate_EDF = dw_gate_EDF.at[number].set(dw_gate_DF.astype(dw_gate_EDF.dtype))
        dw_up_EDF = dw_up_EDF.at[number].set(dw_up_DF.astype(dw_up_EDF.dtype))
        dw_down_EFD = dw_down_EFD.at[number].set(dw_down_FD.astype(dw_down_EFD.dtype))
        return dx_MD, dmix_M1, dw_gate_EDF, dw_up_EDF, dw_down_EFD

    inputs = (x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD)
    zeros = tuple(jnp.zeros_like(a) for a in inputs)
    gradients = lax.fori_loop(0, E, expert, vary_like(zeros, x_MD))
    return *gradients, None


_block.defvjp(_block_forward, _block_backward)


def _tile_gradients(in_mJ, mix_m1, dy_mD, w_down_FD):
    """Return din_mJ, dmix_m1 and hidden_mF of one tile, where hidden = silu(gate) * up and
    y = (mix * hidden) @ down.
    """
    gate_mF, up_mF = jnp.split(in_mJ, 2, -1)
    sigmoid_mF = jax.nn.sigmoid(gate_mF)
    silu_mF = gate_mF * sigmoid_mF
    hidden_mF = silu_mF * up_mF

    dmixed_mF = dy_mD @ w_down_FD.T
    dmix_m1 = jnp.sum(dmixed_mF.astype(jnp.float32) * hidden_mF, -1, keepdims=True)
    dhidden_mF = mixed(dmixed_mF, mix_m1)

    # silu'(gate) = sigmoid(gate) + silu(gate) (1 - sigmoid(gate))
    dgate_mF = dhidden_mF * up_mF * (sigmoid_mF + silu_mF * (1 - sigmoid_mF))
    dup_mF = dhidden_mF * silu_mF
    return jnp.concatenate([dgate_mF, dup_mF], -1), dmix_m1, hidden_mF


def tile_sizes(M: int, E: int) -> tuple[int, ...]:
    """Return the sizes of the row tiles for E experts with M rows."""
    return SMALL_TILES if _small_experts(M, E) else TILES


def _small_experts(M: int, E: int) -> bool:
    """Return whether experts have fewer rows than a tile on average, as when reading a prompt: then
    a copy of their weights costs as much as a product.
    """
    return TILES[-1] * E > M


def _all_dense(dtype: Any, *weights: Weight) -> list[jax.Array]:
    """Return the weights of all experts as arrays, for a form that cannot convert them one expert
    at a time.
    """
    return [dense(w_EXY, dtype) for w_EXY in weights]


def _joined(w_gate_DF: jax.Array, w_up_DF: jax.Array) -> jax.Array:
    """Return both weights next to each other in one matrix w_DJ, J = 2 F: with many rows, one
    product twice as wide is faster than two products.
    """
    return jnp.concatenate([w_gate_DF, w_up_DF], -1)


def silu(a: jax.Array) -> jax.Array:
    """Return a * sigmoid(a)."""
    return a * jax.nn.sigmoid(a)


def mixed(hidden_mF: jax.Array, mix_m: jax.Array) -> jax.Array:
    """Return each row times its mix, multiplied in the mix's float32."""
    return (hidden_mF * mix_m.reshape(-1, 1)).astype(hidden_mF.dtype)


def outer(a_mX: jax.Array, b_mY: jax.Array) -> jax.Array:
    """Return the sum over rows of their outer products, in fp32."""
    return jnp.einsum("mX,mY->XY", a_mX, b_mY, preferred_element_type=jnp.float32)
