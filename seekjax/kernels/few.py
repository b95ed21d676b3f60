"""Expert feed-forward for a handful of tokens, as in a decoding step: y = sum_e mix_e expert_e(x),
with every token in sight of every expert.

A step of some tokens is as slow as the weights it reads, so nothing is gained by sorting rows, and
much is lost by reading an expert that no token chose, or by copying the weights of those that were.
DeepSeek-V2 (arXiv:2405.04434) equation 20.
"""

import jax
import jax.numpy as jnp
from jax import lax

from sharding.vary import vary, vary_like


def experts_every(x_MD, mix_ME, w_gate_EDF, w_up_EDF, w_down_EFD):
    """Plain form: all experts on all tokens. mix_ME float32: each token's gate for each expert, 0
    where it did not choose it."""
    gate_EMF = jnp.einsum("MD,EDF->EMF", x_MD, w_gate_EDF)
    hidden_EMF = jax.nn.silu(gate_EMF) * jnp.einsum("MD,EDF->EMF", x_MD, w_up_EDF)
    y_EMD = jnp.einsum("EMF,EFD->EMD", hidden_EMF, w_down_EFD)
    return jnp.einsum("EMD,ME->MD", y_EMD.astype(jnp.float32), mix_ME).astype(x_MD.dtype)


def experts_few(x_MD, mix_ME, w_gate_EDF, w_up_EDF, w_down_EFD):
    """A loop over the experts in use, which reads their weights where they are. Not for training:
    its length is data, so it has no gradient."""
    x_MD, mix_ME, w_gate_EDF, w_up_EDF, w_down_EFD = vary(
        x_MD, mix_ME, w_gate_EDF, w_up_EDF, w_down_EFD
    )
    E = mix_ME.shape[1]
    used_E = (mix_ME != 0).any(0)
    first_E = jnp.sort(jnp.where(used_E, jnp.arange(E), E))  # the ones in use, in order

    def one(state):
        i, y_MD = state
        expert = first_E[i]
        hidden_MF = jax.nn.silu(x_MD @ w_gate_EDF[expert]) * (x_MD @ w_up_EDF[expert])
        out_MD = (hidden_MF @ w_down_EFD[expert]).astype(jnp.float32)
        return i + 1, y_MD + out_MD * lax.dynamic_slice_in_dim(mix_ME, expert, 1, 1)

    zero = vary_like((jnp.zeros((), jnp.int32), jnp.zeros(x_MD.shape, jnp.float32)), x_MD)
    return lax.while_loop(lambda state: state[0] < used_E.sum(), one, zero)[1].astype(x_MD.dtype)
