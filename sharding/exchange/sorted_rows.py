"""What `static` and `ragged` share: rows (token, choice) sorted by expert, on their way to the
devices of their experts and back.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp

from sharding.exchange.peers import Axes, peer_count, peer_index
from sharding.exchange.rows import gather_sum, permute, rank_by_gate, sort_order
from sharding.exchange.wire import Route, Stay, Wire, combine, dispatch


class Exchange(Protocol):
    """The signature of every exchange; see sharding/exchange/__init__.py."""

    def __call__(
        self,
        x_mD: jax.Array,
        choice_mK: jax.Array,
        gate_mK: jax.Array,
        weights: Sequence[jax.Array],
        experts: Callable[..., jax.Array],
        axes: Axes = (),
        capacity: float = 0.0,
    ) -> tuple[jax.Array, jax.Array]:
        """Return the experts' output of each token, and how many rows were dropped."""
        ...


# make_route(count_PE, room, rows, axes): count_PE [sender, peers, local experts] has the number of
# rows that each sender has for each expert, `room` is the most rows from one sender to one peer.
MakeRoute = Callable[[jax.Array, int, int, Axes], Route]


def exchange_sorted(
    x_mD: jax.Array,
    choice_mK: jax.Array,
    gate_mK: jax.Array,
    weights: Sequence[jax.Array],
    experts: Callable[..., jax.Array],
    axes: Axes,
    capacity: float,
    make_route: MakeRoute,
    wire: Wire | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Sort rows by expert, send them along the route, apply the experts, and send the results back.

    There is room for the worst case, tokens x min(K, local experts) rows from one sender to one
    peer. A positive capacity makes it that many balanced shares and drops the rows with the lowest
    gates (V2 section 2.2.4). A row whose choice is past the last expert does not travel.
    """
    tokens, choices = choice_mK.shape
    local_experts, peers = weights[0].shape[0], peer_count(axes)
    rows, total = tokens * choices, local_experts * peers
    expert_n = choice_mK.reshape(rows)

    # A dropped row gets an expert past the last one, as a row of no expert has already.
    room = tokens * min(choices, local_experts)
    if capacity and peers > 1:
        room = min(room, max(1, round(capacity * rows / peers)))
        kept_n = rank_by_gate(expert_n // local_experts, gate_mK.reshape(rows)) < room
        expert_n = jnp.where(kept_n, expert_n, total)

    order_n, position_n = sort_order(expert_n)
    count_E = jnp.sum(expert_n[:, None] == jnp.arange(total), 0, dtype=jnp.int32)
    x_nD = permute(x_mD, order_n, position_n, choices)
    gate_n1 = permute(gate_mK.reshape(rows, 1), order_n, position_n)

    if peers == 1:
        # Nothing travels, and what a wire would round is rounded.
        route = Stay(expert_n[order_n])
        y_nD = experts(dispatch(x_nD, route, wire), gate_n1[:, 0], *weights, count_E)
        y_nD = combine(y_nD, route, wire)
    else:
        # Every device learns how many rows each sender has for each expert, so no expert ids travel
        # with the rows.
        count_PE = jax.lax.all_gather(count_E, axes).reshape(peers, peers, local_experts)
        route = make_route(count_PE, room, rows, axes)

        # Rows arrive by sender; the experts need them sorted by expert.
        order_R, position_R = sort_order(route.expert_R)
        size_E = count_PE[:, peer_index(axes)].sum(0)
        x_RD = permute(dispatch(x_nD, route, wire), order_R, position_R)
        gate_R1 = permute(route.send(gate_n1), order_R, position_R)
        y_RD = experts(x_RD, gate_R1[:, 0], *weights, size_E)
        y_nD = combine(permute(y_RD, position_R, order_R), route, wire)

    dropped = jnp.sum(choice_mK < total, dtype=jnp.int32) - count_E.sum()
    return gather_sum(y_nD, position_n, order_n, choices), dropped
