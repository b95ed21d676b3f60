"""Expert dispatch for a handful of tokens: all of a group's tokens go to all its devices, and the
sums come back.

The signature is that of `exchange`, except for `experts(x_RD, mix_RE, *weights) -> y_RD`, which
gates and sums over the local experts itself.
"""

import jax
import jax.numpy as jnp


def few(x_mD, choice_mK, gate_mK, weights, experts, axes=(), capacity=0.0):
    """Each device runs its own experts on every token of the group; nothing is sorted and nothing
    dropped, so `capacity` has no say."""
    local_experts = weights[0].shape[0]
    if axes:
        x_mD, choice_mK, gate_mK = (
            jax.lax.all_gather(a, axes, tiled=True) for a in (x_mD, choice_mK, gate_mK)
        )
    mine_E = (jax.lax.axis_index(axes) if axes else 0) * local_experts + jnp.arange(local_experts)
    mix_mE = jnp.where(choice_mK[:, :, None] == mine_E, gate_mK[:, :, None], 0).sum(1)
    y_mD = experts(x_mD, mix_mE, *weights)
    return jax.lax.psum_scatter(y_mD, axes, tiled=True) if axes else y_mD, jnp.zeros((), jnp.int32)
