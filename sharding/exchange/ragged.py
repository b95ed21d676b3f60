"""The exchange `ragged`: an all-to-all of just the rows that exist."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sharding.exchange.peers import Axes, peer_index
from sharding.exchange.rows import column_of_rows
from sharding.exchange.sorted_rows import Route, exchange_sorted
from sharding.vary import vary_like


def exchange_ragged(
    x_mD: jax.Array,
    choice_mK: jax.Array,
    gate_mK: jax.Array,
    weights: Sequence[jax.Array],
    experts: Callable[..., jax.Array],
    axes: Axes = (),
    capacity: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Send rows to the devices of their experts and back as `exchange_static` does, without padding
    on the way.

    Signature: see sharding/exchange/__init__.py.
    """
    return exchange_sorted(
        x_mD, choice_mK, gate_mK, weights, experts, axes, capacity, ragged_buffers
    )


def ragged_buffers(
    count_PE: jax.Array,
    room: int,
    rows: int,
    axes: Axes,
) -> Route:
    """Return the route into one buffer of the same worst case, filled without gaps."""
    peers, me = count_PE.shape[0], peer_index(axes)
    slots = peers * room
    count_PP = count_PE.sum(-1)  # [sender, receiver]
    sent_P, arriving_P = count_PP[me], count_PP[:, me]

    # Rows that lower senders put in each receiver's buffer.
    before_P = (jnp.cumsum(count_PP, 0) - count_PP)[me]
    # Where my part began in each sender's rows.
    home_P = (jnp.cumsum(count_PP, 1) - count_PP)[:, me]

    def move(
        x_ND: jax.Array,
        length: int,
        offset_P: jax.Array,
        size_P: jax.Array,
        target_P: jax.Array,
        arriving_P: jax.Array,
    ) -> jax.Array:
        empty_ND = vary_like(jnp.zeros((length, x_ND.shape[1]), x_ND.dtype), x_ND)
        return jax.lax.ragged_all_to_all(
            x_ND, empty_ND, offset_P, size_P, target_P, arriving_P, axis_name=axes
        )

    def send(x_nD: jax.Array) -> jax.Array:
        return move(x_nD, slots, jnp.cumsum(sent_P) - sent_P, sent_P, before_P, arriving_P)

    def give_back(y_RD: jax.Array) -> jax.Array:
        offset_P = jnp.cumsum(arriving_P) - arriving_P
        return move(y_RD, rows, offset_P, arriving_P, home_P, sent_P)

    # All unused slots stand at the end; they count as one expert more of the last sender.
    padding_P1 = jnp.zeros((peers, 1), jnp.int32)
    size_PE = jnp.concatenate([count_PE[:, me], padding_P1], -1)
    size_PE = size_PE.at[-1, -1].set(slots - arriving_P.sum())
    return Route(send, give_back, column_of_rows(size_PE, slots))
