"""Expert feed-forward over rows already sorted by expert: y = (mix * silu(x @ gate) * (x @ up)) @ down with each row's own expert.

Every form is `experts_X(x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E) -> y_MD`. The first size_E[0] rows belong to expert 0, the next
size_E[1] to expert 1, and so on; sum(size_E) <= M, and the rows past the sum give zero output and take zero gradient. mix is what the token's
router gives the row's expert (float32). It enters before the last product: so its gradient needs the hidden values, which are kept anyway, and
not the outputs, and no backward pass has to keep them, compute them again or send them back between devices again.
DeepSeek-V2 (arXiv:2405.04434) equation 20, one routed expert.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from sharding.vary import vary, vary_like

# Row tiles of `experts_block`, tried in this order: as many big ones as fit, then one small one for the rest of the expert. Below 128 rows XLA's
# CPU matmul loses more to starting its threads than the smaller tile saves; above 256 the last tile wastes more than the bigger matmul gains.
TILES = (256, 128)


def pick(platform):
    """The fastest form on a platform ("cpu", "gpu" or "tpu").

    `lax.ragged_dot` is a native grouped kernel on TPU, dense and masked on CPU (E times the work).
    """
    return experts_block if platform == "cpu" else experts_ragged


def experts_loop(x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E):
    """Plain form: every expert sees every row and keeps its own (E times the work)."""
    x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E = vary(x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E)
    end_E = jnp.cumsum(size_E)
    row_M = jnp.arange(x_MD.shape[0])

    def expert(y_MD, weights):
        w_gate_DF, w_up_DF, w_down_FD, start, end = weights
        out_MD = _mixed(_silu(x_MD @ w_gate_DF) * (x_MD @ w_up_DF), mix_M) @ w_down_FD
        return jnp.where(((start <= row_M) & (row_M < end))[:, None], out_MD, y_MD), None

    zero_MD = vary_like(jnp.zeros_like(x_MD), x_MD)
    return lax.scan(expert, zero_MD, (w_gate_EDF, w_up_EDF, w_down_EFD, end_E - size_E, end_E))[0]


def experts_ragged(x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E):
    """Three `lax.ragged_dot`: XLA's own grouped matmul, native on TPU."""
    x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E = vary(x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E)
    # What a native kernel leaves in the rows of no expert is unspecified, forward and backward: mask on the way in and on the way out.
    own_M1 = (jnp.arange(x_MD.shape[0]) < jnp.sum(size_E))[:, None]
    x_MD = jnp.where(own_M1, x_MD, 0)
    gate_MF = lax.ragged_dot(x_MD, w_gate_EDF, size_E)
    up_MF = lax.ragged_dot(x_MD, w_up_EDF, size_E)
    hidden_MF = jnp.where(own_M1, _mixed(_silu(gate_MF) * up_MF, mix_M), 0)
    return jnp.where(own_M1, lax.ragged_dot(hidden_MF, w_down_EFD, size_E), 0)


def experts_block(x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E):
    """Tiles of rows, each with its one expert, in a loop as long as the rows are many: work follows sum(size_E), neither M nor E."""
    x_MD, mix_M1, *rest = vary(x_MD, mix_M[:, None], w_gate_EDF, w_up_EDF, w_down_EFD, size_E)
    return _block(x_MD, mix_M1, *rest)


@jax.custom_vjp
def _block(x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E):
    return _block_forward(x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E)[0]


def _block_forward(x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E):
    M, F = x_MD.shape[0], w_gate_EDF.shape[-1]

    def tile(expert, take, put, carry):
        y_MD, gate_MF, up_MF = carry
        x_mD = take(x_MD)
        gate_mF, up_mF = x_mD @ w_gate_EDF[expert], x_mD @ w_up_EDF[expert]
        y_mD = _mixed(_silu(gate_mF) * up_mF, take(mix_M1)) @ w_down_EFD[expert]
        return put(y_MD, y_mD), put(gate_MF, gate_mF), put(up_MF, up_mF)

    hidden_MF = jnp.zeros((M, F), x_MD.dtype)
    carry = vary_like((jnp.zeros_like(x_MD), hidden_MF, hidden_MF), x_MD)
    y_MD, gate_MF, up_MF = _each_tile(tile, carry, M, size_E)
    gate_MF, up_MF = checkpoint_name(gate_MF, "product"), checkpoint_name(up_MF, "product")
    return y_MD, (x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E, gate_MF, up_MF)


def _block_backward(saved, dy_MD):
    x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E, gate_MF, up_MF = saved

    def tile(expert, take, put, carry):
        dx_MD, dmix_M1, dw_gate_EDF, dw_up_EDF, dw_down_EFD = carry
        x_mD, mix_m1, dy_mD, gate_mF, up_mF = (take(a_MX) for a_MX in (x_MD, mix_M1, dy_MD, gate_MF, up_MF))
        sigmoid_mF = jax.nn.sigmoid(gate_mF)
        silu_mF = gate_mF * sigmoid_mF
        hidden_mF = silu_mF * up_mF
        dmixed_mF = dy_mD @ w_down_EFD[expert].T
        dmix_m1 = jnp.sum(dmixed_mF.astype(jnp.float32) * hidden_mF, -1, keepdims=True)
        dhidden_mF = _mixed(dmixed_mF, mix_m1)
        dup_mF = dhidden_mF * silu_mF
        dgate_mF = dhidden_mF * up_mF * (sigmoid_mF + silu_mF * (1 - sigmoid_mF))
        dx_mD = dgate_mF @ w_gate_EDF[expert].T + dup_mF @ w_up_EDF[expert].T
        return (
            put(dx_MD, dx_mD),
            put(dmix_M1, dmix_m1),
            dw_gate_EDF.at[expert].add(_outer(x_mD, dgate_mF)),
            dw_up_EDF.at[expert].add(_outer(x_mD, dup_mF)),
            dw_down_EFD.at[expert].add(_outer(_mixed(hidden_mF, mix_m1), dy_mD)),
        )

    # Weight gradients add up over an expert's tiles, hence in fp32 whatever the weights are.
    weights = (w_gate_EDF, w_up_EDF, w_down_EFD)
    carry = (jnp.zeros_like(x_MD), jnp.zeros_like(mix_M1), *(jnp.zeros(w.shape, jnp.float32) for w in weights))
    dx_MD, dmix_M1, *dweights = _each_tile(tile, vary_like(carry, x_MD), x_MD.shape[0], size_E)
    return dx_MD, dmix_M1, *(dw.astype(w.dtype) for dw, w in zip(dweights, weights)), None


_block.defvjp(_block_forward, _block_backward)


def _each_tile(body, carry, M, size_E):
    """Fold `body(expert, take, put, carry)` over all tiles of all experts, in order of rows.

    `take(a_MX)` reads the tile's rows, zero where they are another expert's; `put(a_MX, a_mX)` writes back its own rows only.
    """
    end_E = jnp.cumsum(size_E)

    def tile(m, end, expert, state):
        row, carry = state
        start = jnp.minimum(row, M - m)  # the last tile of a full buffer would hang over its end: move it back and mask what it sees twice
        row_m = start + jnp.arange(m)
        own_m1 = ((row <= row_m) & (row_m < end))[:, None]

        def read(a_MX):
            return lax.dynamic_slice_in_dim(a_MX, start, m)

        def take(a_MX):
            return jnp.where(own_m1, read(a_MX), 0)

        def put(a_MX, a_mX):
            return lax.dynamic_update_slice_in_dim(a_MX, jnp.where(own_m1, a_mX, read(a_MX)), start, 0)

        return row + m, body(expert, take, put, carry)

    def each(expert, carry):
        end = end_E[expert]
        state = (end - size_E[expert], carry)
        for m, rest in zip(TILES, (*TILES[1:], 0)):
            m = min(m, M)
            state = lax.while_loop(
                lambda state, rest=rest: state[0] + rest < end,
                lambda state, m=m: tile(m, end, expert, state),
                state,
            )
        return state[1]

    return lax.fori_loop(0, size_E.shape[0], each, carry)


def _silu(a):
    return a * jax.nn.sigmoid(a)


def _mixed(hidden_mF, mix_m):
    """Each row times its mix, multiplied in the mix's float32."""
    return (hidden_mF * mix_m.reshape(-1, 1)).astype(hidden_mF.dtype)


def _outer(a_mX, b_mY):
    """The sum over rows of their outer products, in fp32."""
    return jnp.einsum("mX,mY->XY", a_mX, b_mY, preferred_element_type=jnp.float32)
