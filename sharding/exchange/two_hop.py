"""The exchange `two_hop`, for nodes whose links are slow: a token crosses to each node of its
experts once, and one sum comes back (V3 section 3.2.2).

Hop 1 goes between nodes, to the device with the same number in the other node. Hop 2 goes from
there to the devices of the experts, and is `static` or `ragged` among the devices of one node. So
what crosses is bounded by the nodes that a token may choose, not by its experts.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sharding.axes import NODE
from sharding.exchange.peers import Axes, peer_count, peer_index
from sharding.exchange.ragged import ragged_buffers
from sharding.exchange.rows import gather_sum, permute, sort_order
from sharding.exchange.sorted_rows import MakeRoute, exchange_sorted
from sharding.exchange.static import fixed_buffers
from sharding.exchange.wire import Wire, combine, dispatch


def exchange_two_hop(
    x_mD: jax.Array,
    choice_mK: jax.Array,
    gate_mK: jax.Array,
    weights: Sequence[jax.Array],
    experts: Callable[..., jax.Array],
    axes: Axes = (),
    capacity: float = 0.0,
    wire: Wire | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Send tokens to nodes and on to the devices of their experts, and sums back, in buffers of a
    fixed size.

    Signature: see sharding/exchange/__init__.py; capacity: see `exchange_hops`.
    """
    return exchange_hops(
        x_mD, choice_mK, gate_mK, weights, experts, axes, capacity, fixed_buffers, wire
    )


def exchange_two_hop_ragged(
    x_mD: jax.Array,
    choice_mK: jax.Array,
    gate_mK: jax.Array,
    weights: Sequence[jax.Array],
    experts: Callable[..., jax.Array],
    axes: Axes = (),
    capacity: float = 0.0,
    wire: Wire | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Do as `exchange_two_hop`, without padding on the way."""
    return exchange_hops(
        x_mD, choice_mK, gate_mK, weights, experts, axes, capacity, ragged_buffers, wire
    )


def exchange_hops(
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
    """Exchange tokens between nodes, then rows (token, choice) within each node, and back.

    No token visits a node twice, so hop 1 has room for `tokens` rows from one node to another, and
    drops none. A positive capacity bounds hop 2: of the rows that a device passes on to another one
    in its node, at most that many balanced shares, those with the highest gates; `dropped` counts
    the others on the device that passes them on. Without nodes there is hop 2 alone.
    """
    near = tuple(axis for axis in axes if axis != NODE)
    if NODE not in axes:
        return exchange_sorted(
            x_mD, choice_mK, gate_mK, weights, experts, near, capacity, make_route, wire
        )

    far = (NODE,)
    nodes, tokens = peer_count(far), x_mD.shape[0]
    node_experts = weights[0].shape[0] * peer_count(near)

    # Rows (token, node), sorted by node; if no expert of the token is there, past the last node.
    node_mKN = choice_mK[:, :, None] // node_experts == jnp.arange(nodes)
    visits_mN = node_mKN.any(1)
    node_mN = jnp.where(visits_mN, jnp.arange(nodes), nodes)
    order_n, position_n = sort_order(node_mN.reshape(-1))

    # Hop 1, with what the other node must know of a token: its choices and their gates.
    count_N = visits_mN.sum(0, dtype=jnp.int32)
    count_PN = jax.lax.all_gather(count_N, far)
    route = make_route(count_PN[:, :, None], tokens, tokens * nodes, far)

    def by_node(a_mX: jax.Array) -> jax.Array:
        return permute(a_mX, order_n, position_n, nodes)

    x_RD = dispatch(by_node(x_mD), route, wire)
    choice_RK, gate_RK = route.send(by_node(choice_mK)), route.send(by_node(gate_mK))

    # Choices in this node, numbered within it; padding has none.
    choice_RK -= peer_index(far) * node_experts
    is_row_R1 = (route.expert_R == 0)[:, None]
    here_RK = is_row_R1 & (choice_RK >= 0) & (choice_RK < node_experts)
    choice_RK = jnp.where(here_RK, choice_RK, node_experts)

    # Hop 2. The nodes share out the rows: a balanced share is of one node's tokens.
    y_RD, dropped = exchange_sorted(
        x_RD, choice_RK, gate_RK, weights, experts, near, capacity / nodes, make_route, wire
    )

    # One partial sum of each token comes back from each node that it visited.
    y_nD = combine(y_RD, route, wire)
    return gather_sum(y_nD, position_n, order_n, nodes), dropped
