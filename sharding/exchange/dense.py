"""The exchange `dense`: every token visits every expert."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sharding.exchange.peers import Axes, gather_tokens, peer_index, scatter_sum


def exchange_dense(
    x_mD: jax.Array,
    choice_mK: jax.Array,
    gate_mK: jax.Array,
    weights: Sequence[jax.Array],
    experts: Callable[..., jax.Array],
    axes: Axes = (),
    capacity: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Gather the peers' tokens, apply each local expert to all of them, weight by the gate, and
    scatter the sums back.

    Nothing is dropped, whatever the capacity. Signature: see sharding/exchange/__init__.py.
    """
    local_experts = weights[0].shape[0]
    x_mD, choice_mK, gate_mK = gather_tokens((x_mD, choice_mK, gate_mK), axes)
    tokens, width = x_mD.shape

    # The gate of each token for each local expert, 0 for an expert that the token did not choose.
    local_E = peer_index(axes) * local_experts + jnp.arange(local_experts)
    chosen_EmK = choice_mK == local_E[:, None, None]
    mix_Em = jnp.sum(jnp.where(chosen_EmK, gate_mK, 0), -1)

    # One copy of all tokens per expert, laid out expert after expert.
    x_RD = jnp.tile(x_mD, (local_experts, 1))
    size_E = jnp.full(local_experts, tokens, jnp.int32)
    y_RD = experts(x_RD, mix_Em.reshape(-1), *weights, size_E)

    y_EmD = y_RD.reshape(local_experts, tokens, width)
    y_mD = y_EmD.sum(0, dtype=jnp.float32).astype(x_mD.dtype)
    return scatter_sum(y_mD, axes), jnp.zeros((), jnp.int32)
