"""The exchange `static`: an all-to-all in buffers of a fixed size."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import struct

from sharding.exchange.peers import Axes, peer_index
from sharding.exchange.rows import column_of_rows, permute
from sharding.exchange.sorted_rows import exchange_sorted
from sharding.exchange.wire import Wire


def exchange_static(
    x_mD: jax.Array,
    choice_mK: jax.Array,
    gate_mK: jax.Array,
    weights: Sequence[jax.Array],
    experts: Callable[..., jax.Array],
    axes: Axes = (),
    capacity: float = 0.0,
    wire: Wire | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Send rows to the devices of their experts in one buffer of fixed size per peer, and the
    results back the same way.

    The buffer holds the worst case if capacity is 0, and else drops the rows with the lowest gates;
    see `exchange_sorted`. Signature: see sharding/exchange/__init__.py.
    """
    return exchange_sorted(
        x_mD, choice_mK, gate_mK, weights, experts, axes, capacity, fixed_buffers, wire
    )


class FixedBuffers(struct.PyTreeNode):
    """A route in equally many rows for each peer, of which the first ones are in use."""

    source_R: jax.Array  # where each slot of my buffers takes its row from; past the end if empty
    slot_n: jax.Array  # the slot of each row; past the end if it does not travel
    expert_R: jax.Array
    peers: int = struct.field(pytree_node=False)
    axes: Axes = struct.field(pytree_node=False)

    def send(self, x_nD: jax.Array) -> jax.Array:
        """Return the rows that arrive here, by sender, padded."""
        return self._swap(permute(x_nD, self.source_R, self.slot_n))

    def give_back(self, y_RD: jax.Array) -> jax.Array:
        """Return each row to where it came from."""
        return permute(self._swap(y_RD), self.slot_n, self.source_R)

    def _swap(self, x_RD: jax.Array) -> jax.Array:
        buffers_PrD = x_RD.reshape(self.peers, -1, x_RD.shape[-1])
        return jax.lax.all_to_all(buffers_PrD, self.axes, 0, 0).reshape(x_RD.shape)


def fixed_buffers(
    count_PE: jax.Array,
    room: int,
    rows: int,
    axes: Axes,
) -> FixedBuffers:
    """Return the route in `room` rows per peer."""
    peers, me = count_PE.shape[0], peer_index(axes)
    slots = peers * room

    # My rows are sorted by expert, and so by peer.
    count_P = count_PE[me].sum(-1)
    start_P = jnp.cumsum(count_P) - count_P
    slot_R = jnp.arange(slots, dtype=jnp.int32)
    peer_R, rank_R = jnp.divmod(slot_R, room)
    source_R = jnp.where(rank_R < count_P[peer_R], start_P[peer_R] + rank_R, rows)
    slot_n = jnp.full(rows, slots, jnp.int32).at[source_R].set(slot_R, mode="drop")

    # From each sender rows arrive sorted by expert; the rest of its buffer counts as one expert
    # more.
    arriving_PE = count_PE[:, me]
    padding_P1 = room - arriving_PE.sum(-1, keepdims=True)
    size_PE = jnp.concatenate([arriving_PE, padding_P1], -1)
    return FixedBuffers(source_R, slot_n, column_of_rows(size_PE, slots), peers, axes)
