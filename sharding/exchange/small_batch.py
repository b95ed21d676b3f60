"""The exchange `small_batch`, for the few tokens of a decoding step: all tokens of the peers go to
all peers, and the sums come back.

The signature is that of sharding/exchange/__init__.py, except that
`experts(x_RD, mix_RE, *weights) -> y_RD` gates and sums over the local experts itself.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sharding.exchange.peers import Axes, gather_tokens, peer_index, scatter_sum


def exchange_small_batch(
    x_mD: jax.Array,
    choice_mK: jax.Array,
    gate_mK: jax.Array,
    weights: Sequence[jax.Array],
    experts: Callable[..., jax.Array],
    axes: Axes = (),
    capacity: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Run each device's experts on every token of its peers.

    Nothing is sorted and nothing dropped, whatever the capacity.
    """
    local_experts = weights[0].shape[0]
    x_mD, choice_mK, gate_mK = gather_tokens((x_mD, choice_mK, gate_mK), axes)

    local_E = peer_index(axes) * local_experts + jnp.arange(local_experts)
    chosen_mKE = choice_mK[:, :, None] == local_E
    mix_mE = jnp.where(chosen_mKE, gate_mK[:, :, None], 0).sum(1)

    y_mD = experts(x_mD, mix_mE, *weights)
    return scatter_sum(y_mD, axes), jnp.zeros((), jnp.int32)
