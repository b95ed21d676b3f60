"""The exchange `static`: an all-to-all in buffers of a fixed size."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sharding.exchange.peers import Axes, peer_index
from sharding.exchange.rows import column_of_rows, permute
from sharding.exchange.sorted_rows import Route, exchange_sorted


def exchange_static(
    x_mD: jax.Array,
    choice_mK: jax.Array,
    gate_mK: jax.Array,
    weights: Sequence[jax.Array],
    experts: Callable[..., jax.Array],
    axes: Axes = (),
    capacity: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Send rows to the devices of their experts in one buffer of fixed size per peer, and the
    results back the same way.

    The buffer holds the worst case if capacity is 0, and else drops the rows with the lowest gates;
    see `exchange_sorted`. Signature: see sharding/exchange/__init__.py.
    """
    return exchange_sorted(
        x_mD, choice_mK, gate_mK, weights, experts, axes, capacity, fixed_buffers
    )


def fixed_buffers(
    count_PE: jax.Array,
    room: int,
    rows: int,
    axes: Axes,
) -> Route:
    """Return the route in `room` rows per peer, of which the first ones are in use."""
    peers, me = count_PE.shape[0], peer_index(axes)
    slots = peers * room

    # Where each slot of my buffers takes its row from, and the slot of each row.
    count_P = count_PE[me].sum(-1)
    start_P = jnp.cumsum(count_P) - count_P
    slot_R = jnp.arange(slots, dtype=jnp.int32)
    peer_R, rank_R = jnp.divmod(slot_R, room)
    source_R = jnp.where(rank_R < count_P[peer_R], start_P[peer_R] + rank_R, rows)
    slot_n = jnp.full(rows, slots, jnp.int32).at[source_R].set(slot_R, mode="drop")

    def swap(x_RD: jax.Array) -> jax.Array:
        buffers_PrD = x_RD.reshape(peers, room, -1)
        return jax.lax.all_to_all(buffers_PrD, axes, 0, 0).reshape(slots, -1)

    def send(x_nD: jax.Array) -> jax.Array:
        return swap(permute(x_nD, source_R, slot_n))

    def give_back(y_RD: jax.Array) -> jax.Array:
        return permute(swap(y_RD), slot_n, source_R)

    # From each sender rows arrive sorted by expert; the rest of its buffer counts as one expert
    # more.
    arriving_PE = count_PE[:, me]
    padding_P1 = room - arriving_PE.sum(-1, keepdims=True)
    size_PE = jnp.concatenate([arriving_PE, padding_P1], -1)
    return Route(send, give_back, column_of_rows(size_PE, slots))
