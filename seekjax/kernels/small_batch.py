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
