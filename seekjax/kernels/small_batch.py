"""Expert feed-forward for the few tokens of a decoding step: y = sum_e mix_e expert_e(x), where
every expert has access to every token.

A step of few tokens takes as long as reading its weights. So sorting rows gains nothing, and much
is lost by reading an expert that no token chose, or by copying the weights of the chosen ones.
DeepSeek-V2 (arXiv:2405.04434) equation 20.
"""

import jax
import jax.numpy as jnp
from jax import lax

from seekjax.quant.formats import Quantised
from sharding.vary import vary, vary_like

# Up to this many tokens, this form is faster on a CPU than sorting the tokens by expert, which
# would fill tiles that are as large.
SMALL_BATCH = 128

# From this many tokens on, an expert is applied to its own tokens alone, in tiles of few tokens as
# long as there are few, and of more then.
TILED = 8
FEW_TOKENS = 16
SMALL_TILE, LARGE_TILE = 4, 16


def experts_every(
    x_MD: jax.Array,
    mix_ME: jax.Array,
    w_gate_EDF: jax.Array,
    w_up_EDF: jax.Array,
    w_down_EFD: jax.Array,
) -> jax.Array:
    """Apply all experts to all tokens: the plain form.

    mix_ME (float32) is each token's gate for each expert, 0 for an expert that it did not choose.
    """
    gate_EMF = jnp.einsum("MD,EDF->EMF", x_MD, w_gate_EDF)
    up_EMF = jnp.einsum("MD,EDF->EMF", x_MD, w_up_EDF)
    hidden_EMF = jax.nn.silu(gate_EMF) * up_EMF
    y_EMD = jnp.einsum("EMF,EFD->EMD", hidden_EMF, w_down_EFD)
    return jnp.einsum("EMD,ME->MD", y_EMD.astype(jnp.float32), mix_ME).astype(x_MD.dtype)


def experts_small_batch(
    x_MD: jax.Array,
    mix_ME: jax.Array,
    w_gate_EDF: jax.Array | Quantised,
    w_up_EDF: jax.Array | Quantised,
    w_down_EFD: jax.Array | Quantised,
) -> jax.Array:
    """Loop over the experts in use, reading their weights where they are.

    Not for training: the length of the loop depends on the data, so it has no gradient.
    """
    x_MD, mix_ME, w_gate_EDF, w_up_EDF, w_down_EFD = vary(
        x_MD, mix_ME, w_gate_EDF, w_up_EDF, w_down_EFD
    )

    if x_MD.shape[0] >= TILED:
        return _experts_tiled(x_MD, mix_ME, w_gate_EDF, w_up_EDF, w_down_EFD)

    # The numbers of the experts in use, in order, at the front.
    E = mix_ME.shape[1]
    used_E = (mix_ME != 0).any(0)
    number_E = jnp.sort(jnp.where(used_E, jnp.arange(E), E))

    def unfinished(state):
        i, _ = state
        return i < used_E.sum()

    def add_expert(state):
        i, y_MD = state
        expert = number_E[i]
        hidden_MF = jax.nn.silu(x_MD @ w_gate_EDF[expert]) * (x_MD @ w_up_EDF[expert])
        out_MD = (hidden_MF @ w_down_EFD[expert]).astype(jnp.float32)
        mix_M1 = lax.dynamic_slice_in_dim(mix_ME, expert, 1, 1)
        return i + 1, y_MD + out_MD * mix_M1

    start = (jnp.zeros((), jnp.int32), jnp.zeros(x_MD.shape, jnp.float32))
    _, y_MD = lax.while_loop(unfinished, add_expert, vary_like(start, x_MD))
    return y_MD.astype(x_MD.dtype)


def _experts_tiled(
    x_MD: jax.Array,
    mix_ME: jax.Array,
    w_gate_EDF: jax.Array | Quantised,
    w_up_EDF: jax.Array | Quantised,
    w_down_EFD: jax.Array | Quantised,
) -> jax.Array:
    """Loop over tiles of tokens that chose the same expert.

    Most tokens of a larger batch did not choose a given expert, so picking those that did costs
    less than applying it to all.
    """
    M, _ = mix_ME.shape
    size = SMALL_TILE if M <= FEW_TOKENS else LARGE_TILE
    used_EM = mix_ME.T != 0

    # each expert's tokens in front, and how many tiles they fill
    token_EM = jnp.argsort(~used_EM, axis=1, stable=True)
    token_EM = jnp.pad(token_EM, ((0, 0), (0, -M % size)))
    count_E = used_EM.sum(1)
    tiles_E = -(-count_E // size)
    end_E = jnp.cumsum(tiles_E)

    def unfinished(state):
        i, _ = state
        return i < end_E[-1]

    def add_tile(state):
        i, y_MD = state
        expert = (end_E <= i).sum()
        before = end_E[expert] - tiles_E[expert]  # tiles of earlier experts
        first = size * (i - before)
        token_m = lax.dynamic_slice(token_EM, (expert, first), (1, size))[0]
        filled_m = first + jnp.arange(size) < count_E[expert]

        x_mD = x_MD[token_m]
        hidden_mF = jax.nn.silu(x_mD @ w_gate_EDF[expert]) * (x_mD @ w_up_EDF[expert])
        out_mD = (hidden_mF @ w_down_EFD[expert]).astype(jnp.float32)
        mix_m = jnp.where(filled_m, mix_ME[token_m, expert], 0)
        return i + 1, y_MD.at[token_m].add(out_mD * mix_m[:, None])

    start = (jnp.zeros((), jnp.int32), jnp.zeros(x_MD.shape, jnp.float32))
    _, y_MD = lax.while_loop(unfinished, add_tile, vary_like(start, x_MD))
    return y_MD.astype(x_MD.dtype)
