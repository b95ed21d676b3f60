"""Expert feed-forward over rows already sorted by expert: y = (mix * silu(x @ gate) * (x @ up)) @
down with each row's own expert.

Every form is `experts_X(x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E) -> y_MD`. The first
size_E[0] rows belong to expert 0, the next size_E[1] to expert 1, and so on; sum(size_E) <= M, and
the rows past the sum give zero output and take zero gradient. mix is what the token's router gives
the row's expert (float32). It enters before the last product: so its gradient needs the hidden
values, which are kept anyway, and not the outputs, and no backward pass has to keep them, compute
them again or send them back between devices again. Weights may be Quantised: each form writes them
out as suits it, one expert at a time or all at once. DeepSeek-V2 (arXiv:2405.04434) equation 20,
one routed expert.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from seekjax.quant.formats import Quantised, dense
from sharding.vary import vary, vary_like

# Row tiles of `experts_block`, tried in this order: as many big ones as fit, then one small one for
# the rest of the expert. Below 128 rows XLA's
# CPU matmul loses more to starting its threads than the smaller tile saves; above 256 the last tile
# wastes more than the bigger matmul gains.
TILES = (256, 128)
FEW_TILES = (
    64,
    32,
)  # instead, where an expert has fewer rows than a tile on average, as when reading a prompt


def pick(platform):
    """The fastest form on a platform ("cpu", "gpu" or "tpu").

    `lax.ragged_dot` is a native grouped kernel on TPU, dense and masked on CPU (E times the work).
    """
    return experts_block if platform == "cpu" else experts_ragged


def experts_loop(x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E):
    """Plain form: every expert sees every row and keeps its own (E times the work)."""
    w_gate_EDF, w_up_EDF, w_down_EFD = _written_out(x_MD.dtype, w_gate_EDF, w_up_EDF, w_down_EFD)
    x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E = vary(
        x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E
    )
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
    w_gate_EDF, w_up_EDF, w_down_EFD = _written_out(x_MD.dtype, w_gate_EDF, w_up_EDF, w_down_EFD)
    x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E = vary(
        x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E
    )
    # What a native kernel leaves in the rows of no expert is unspecified, forward and backward:
    # mask on the way in and on the way out.
    own_M1 = (jnp.arange(x_MD.shape[0]) < jnp.sum(size_E))[:, None]
    x_MD = jnp.where(own_M1, x_MD, 0)
    gate_MF = lax.ragged_dot(x_MD, w_gate_EDF, size_E)
    up_MF = lax.ragged_dot(x_MD, w_up_EDF, size_E)
    hidden_MF = jnp.where(own_M1, _mixed(_silu(gate_MF) * up_MF, mix_M), 0)
    return jnp.where(own_M1, lax.ragged_dot(hidden_MF, w_down_EFD, size_E), 0)


def experts_block(x_MD, mix_M, w_gate_EDF, w_up_EDF, w_down_EFD, size_E):
    """Tiles of rows, each with its one expert, in a loop as long as the rows are many: work follows
    sum(size_E), neither M nor E."""
    x_MD, mix_M1, *rest = vary(x_MD, mix_M[:, None], w_gate_EDF, w_up_EDF, w_down_EFD, size_E)
    if isinstance(w_gate_EDF, Quantised):  # has no gradient, and needs none
        return _block_forward(x_MD, mix_M1, *rest)[0]
    return _block(x_MD, mix_M1, *rest)


@jax.custom_vjp
def _block(x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E):
    return _block_forward(x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E)[0]


def _block_forward(x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E):
    few = _few(x_MD.shape[0], size_E)

    def expert(number, each_tile, carry):
        w_gate_DF, w_up_DF, w_down_FD = (
            dense(w_EXY[number], x_MD.dtype) for w_EXY in (w_gate_EDF, w_up_EDF, w_down_EFD)
        )
        w_into = (w_gate_DF, w_up_DF) if few else (_joined(w_gate_DF, w_up_DF),)

        def tile(read, own, put, carry):
            y_MD, in_MJ = carry
            x_mD = read(x_MD)
            in_mJ = jnp.concatenate([x_mD @ w for w in w_into], -1)
            gate_mF, up_mF = jnp.split(in_mJ, 2, -1)
            y_mD = _mixed(_silu(gate_mF) * up_mF, read(mix_M1)) @ w_down_FD
            return put(y_MD, y_mD), put(in_MJ, in_mJ)

        return each_tile(tile, carry)

    carry = (jnp.zeros_like(x_MD), jnp.zeros((x_MD.shape[0], 2 * w_gate_EDF.shape[-1]), x_MD.dtype))
    y_MD, in_MJ = _each_expert(expert, vary_like(carry, x_MD), x_MD.shape[0], size_E)
    return y_MD, (
        x_MD,
        mix_M1,
        w_gate_EDF,
        w_up_EDF,
        w_down_EFD,
        size_E,
        checkpoint_name(in_MJ, "product"),
    )


def _block_backward(saved, dy_MD):
    x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD, size_E, in_MJ = saved

    def expert(number, each_tile, carry):
        w_in_DJ, w_down_FD = _joined(w_gate_EDF[number], w_up_EDF[number]), w_down_EFD[number]

        def tile(read, own, put, carry):
            dx_MD, dmix_M1, dw_in_DJ, dw_down_FD = carry
            x_mD, mix_m1, dy_mD = (
                read(x_MD),
                read(mix_M1),
                own(read(dy_MD)),
            )  # with no dy, another expert's row adds to no sum
            gate_mF, up_mF = jnp.split(read(in_MJ), 2, -1)
            sigmoid_mF = jax.nn.sigmoid(gate_mF)
            silu_mF = gate_mF * sigmoid_mF
            hidden_mF = silu_mF * up_mF
            dmixed_mF = dy_mD @ w_down_FD.T
            dmix_m1 = jnp.sum(dmixed_mF.astype(jnp.float32) * hidden_mF, -1, keepdims=True)
            dhidden_mF = _mixed(dmixed_mF, mix_m1)
            din_mJ = jnp.concatenate(
                [
                    dhidden_mF * up_mF * (sigmoid_mF + silu_mF * (1 - sigmoid_mF)),
                    dhidden_mF * silu_mF,
                ],
                -1,
            )
            dw_down_FD += _outer(_mixed(hidden_mF, mix_m1), dy_mD)
            return (
                put(dx_MD, din_mJ @ w_in_DJ.T),
                put(dmix_M1, dmix_m1),
                dw_in_DJ + _outer(x_mD, din_mJ),
                dw_down_FD,
            )

        *rows, dw_gate_EDF, dw_up_EDF, dw_down_EFD = carry
        none = vary_like(tuple(jnp.zeros(w.shape, jnp.float32) for w in (w_in_DJ, w_down_FD)), x_MD)
        *rows, dw_in_DJ, dw_down_FD = each_tile(tile, (*rows, *none))
        dw_gate_DF, dw_up_DF = jnp.split(dw_in_DJ, 2, -1)
        return *rows, *(
            dw_E.at[number].set(dw.astype(dw_E.dtype))
            for dw_E, dw in (
                (dw_gate_EDF, dw_gate_DF),
                (dw_up_EDF, dw_up_DF),
                (dw_down_EFD, dw_down_FD),
            )
        )

    carry = tuple(jnp.zeros_like(a) for a in (x_MD, mix_M1, w_gate_EDF, w_up_EDF, w_down_EFD))
    return *_each_expert(expert, vary_like(carry, x_MD), x_MD.shape[0], size_E), None


_block.defvjp(_block_forward, _block_backward)


def _written_out(dtype, *weights):
    """The weights of all experts as arrays, for a form that cannot take them one expert at a
    time."""
    return [dense(w_EXY, dtype) for w_EXY in weights]


def _few(M, size_E):
    """Whether experts have fewer rows than a tile on average, as when reading a prompt: then a copy
    of their weights costs as much as a product."""
    return TILES[-1] * size_E.shape[0] > M


def _joined(w_gate_DF, w_up_DF):
    """Both side by side in one matrix w_DJ, J = 2 F: with many rows, one product twice as wide is
    faster than two."""
    return jnp.concatenate([w_gate_DF, w_up_DF], -1)


def _each_expert(body, carry, M, size_E):
    """Fold `body(number, each_tile, carry)` over the experts, and in it `each_tile(tile, carry)`
    over the tiles of the expert's rows.

    `tile(read, own, put, carry)`: `read(a_MX)` gives the rows a_mX of a tile, some of which may be
    another expert's, `own(a_mX)` puts zero in their place, and `put(a_MX, a_mX)` writes back all
    but them.
    """
    end_E = jnp.cumsum(size_E)
    tiles = FEW_TILES if _few(M, size_E) else TILES

    def at(row, m, end, tile, carry):
        start = jnp.minimum(
            row,
            M - m,
            # the last tile of a full buffer would hang over its end: move it back, it owns what is
            # left
        )
        row_m = start + jnp.arange(m)
        own_m1 = ((row <= row_m) & (row_m < end))[:, None]

        def read(a_MX):
            return lax.dynamic_slice_in_dim(a_MX, start, m)

        def put(a_MX, a_mX):
            return lax.dynamic_update_slice_in_dim(
                a_MX, jnp.where(own_m1, a_mX, read(a_MX)), start, 0
            )

        return tile(read, lambda a_mX: jnp.where(own_m1, a_mX, 0), put, carry)

    def expert(number, carry):
        end = end_E[number]

        def each_tile(tile, carry):
            state = (end - size_E[number], carry)
            for m, rest in zip(tiles, (*tiles[1:], 0)):
                m = min(m, M)
                state = lax.while_loop(
                    lambda state, rest=rest: state[0] + rest < end,
                    lambda state, m=m: (state[0] + m, at(state[0], m, end, tile, state[1])),
                    state,
                )
            return state[1]

        return body(number, each_tile, carry)

    return lax.fori_loop(0, size_E.shape[0], expert, carry)


def _silu(a):
    return a * jax.nn.sigmoid(a)


def _mixed(hidden_mF, mix_m):
    """Each row times its mix, multiplied in the mix's float32."""
    return (hidden_mF * mix_m.reshape(-1, 1)).astype(hidden_mF.dtype)


def _outer(a_mX, b_mY):
    """The sum over rows of their outer products, in fp32."""
    return jnp.einsum("mX,mY->XY", a_mX, b_mY, preferred_element_type=jnp.float32)
