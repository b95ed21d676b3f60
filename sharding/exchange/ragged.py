"""The exchange `ragged`: an all-to-all of just the rows that exist."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import struct

from sharding.exchange.peers import Axes, peer_index
from sharding.exchange.rows import column_of_rows
from sharding.exchange.sorted_rows import exchange_sorted
from sharding.exchange.wire import Wire
from sharding.vary import vary_like


def exchange_ragged(
    x_mD: jax.Array,
    choice_mK: jax.Array,
    gate_mK: jax.Array,
    weights: Sequence[jax.Array],
    experts: Callable[..., jax.Array],
    axes: Axes = (),
    capacity: float = 0.0,
    wire: Wire | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Send rows to the devices of their experts and back as `exchange_static` does, without padding
    on the way.

    Signature: see sharding/exchange/__init__.py.
    """
    return exchange_sorted(
        x_mD, choice_mK, gate_mK, weights, experts, axes, capacity, ragged_buffers, wire
    )


class RaggedBuffers(struct.PyTreeNode):
    """A route into one buffer, filled without gaps; the unused slots stand at the end."""

    sent_P: jax.Array  # rows for each receiver
    arriving_P: jax.Array  # rows from each sender
    before_P: jax.Array  # rows that lower senders put in each receiver's buffer
    home_P: jax.Array  # where my part began in each sender's rows
    expert_R: jax.Array
    rows: int = struct.field(pytree_node=False)
    axes: Axes = struct.field(pytree_node=False)

    def send(self, x_nD: jax.Array) -> jax.Array:
        """Return the rows that arrive here, by sender, padded."""
        offset_P = jnp.cumsum(self.sent_P) - self.sent_P
        sizes = (self.sent_P, self.before_P, self.arriving_P)
        return self._move(x_nD, self.expert_R.size, offset_P, *sizes)

    def give_back(self, y_RD: jax.Array) -> jax.Array:
        """Return each row to where it came from."""
        offset_P = jnp.cumsum(self.arriving_P) - self.arriving_P
        sizes = (self.arriving_P, self.home_P, self.sent_P)
        return self._move(y_RD, self.rows, offset_P, *sizes)

    def _move(
        self,
        x_ND: jax.Array,
        length: int,
        offset_P: jax.Array,
        size_P: jax.Array,
        target_P: jax.Array,
        arriving_P: jax.Array,
    ) -> jax.Array:
        empty_ND = vary_like(jnp.zeros((length, x_ND.shape[1]), x_ND.dtype), x_ND)
        return jax.lax.ragged_all_to_all(
            x_ND, empty_ND, offset_P, size_P, target_P, arriving_P, axis_name=self.axes
        )


def ragged_buffers(
    count_PE: jax.Array,
    room: int,
    rows: int,
    axes: Axes,
) -> RaggedBuffers:
    """Return the route into a buffer for the worst case, `room` rows from each peer."""
    peers, me = count_PE.shape[0], peer_index(axes)
    slots = peers * room
    count_PP = count_PE.sum(-1)  # [sender, receiver]
    arriving_P = count_PP[:, me]

    # All unused slots count as one expert more of the last sender.
    padding_P1 = jnp.zeros((peers, 1), jnp.int32)
    size_PE = jnp.concatenate([count_PE[:, me], padding_P1], -1)
    size_PE = size_PE.at[-1, -1].set(slots - arriving_P.sum())

    return RaggedBuffers(
        sent_P=count_PP[me],
        arriving_P=arriving_P,
        before_P=(jnp.cumsum(count_PP, 0) - count_PP)[me],
        home_P=(jnp.cumsum(count_PP, 1) - count_PP)[:, me],
        expert_R=column_of_rows(size_PE, slots),
        rows=rows,
        axes=axes,
    )
