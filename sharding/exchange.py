"""Expert dispatch and combine: the one communication that is written out instead of left to the
compiler.

Three forms of one signature run inside `local`, on each device's m tokens:

    dispatch(x_mD, choice_mK, gate_mK, weights, experts, axes, capacity) -> (y_mD, dropped)

`weights` are the local experts' matrices, `experts(x_RD, mix_R, *weights, size_E) -> y_RD` applies
them to rows sorted by expert and scales each by its gate, `axes` are the mesh axes that split the
experts (none: no exchange). `dropped` counts the rows (token, choice) this device's tokens lost.

    dense    every token visits every expert: the reference
    # sort, all-to-all in buffers of a fixed size, sort, experts, and back; dropless when capacity
    # is 0
    static
    ragged   the same rows in an all-to-all of their true number, where the backend has one (TPU)
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from sharding.vary import vary_like

Experts = Callable[..., jax.Array]


def dense(x_mD, choice_mK, gate_mK, weights, experts: Experts, axes=(), capacity=0.0):
    """Gather the group's tokens, let each local expert see them all, weight by the gate, and
    scatter the sums back."""
    local_experts = weights[0].shape[0]
    if axes:
        x_mD, choice_mK, gate_mK = (
            jax.lax.all_gather(a, axes, tiled=True) for a in (x_mD, choice_mK, gate_mK)
        )
    tokens, width = x_mD.shape
    mine_E = _index(axes) * local_experts + jnp.arange(local_experts)
    mix_Em = jnp.sum(jnp.where(choice_mK == mine_E[:, None, None], gate_mK, 0), -1)
    y_RD = experts(
        jnp.tile(x_mD, (local_experts, 1)),
        mix_Em.reshape(-1),
        *weights,
        jnp.full(local_experts, tokens, jnp.int32),
    )
    y_mD = y_RD.reshape(local_experts, tokens, width).sum(0, dtype=jnp.float32).astype(x_mD.dtype)
    return jax.lax.psum_scatter(y_mD, axes, tiled=True) if axes else y_mD, jnp.zeros((), jnp.int32)


def static(x_mD, choice_mK, gate_mK, weights, experts: Experts, axes=(), capacity=0.0):
    """Send rows to the devices of their experts in one buffer of fixed size per peer, and the
    results back the same way.

    The buffer holds the worst case, tokens x min(K, local experts) rows. A positive capacity makes
    it that many balanced shares and drops the rows with the lowest gates (V2 section 2.2.4).
    """
    return _dispatch(x_mD, choice_mK, gate_mK, weights, experts, axes, capacity, _fixed)


def ragged(x_mD, choice_mK, gate_mK, weights, experts: Experts, axes=(), capacity=0.0):
    """As `static`, but only rows that exist travel."""
    return _dispatch(x_mD, choice_mK, gate_mK, weights, experts, axes, capacity, _ragged)


def _dispatch(x_mD, choice_mK, gate_mK, weights, experts, axes, capacity, transport):
    (tokens, choices), local_experts, peers = choice_mK.shape, weights[0].shape[0], _size(axes)
    rows, total = tokens * choices, local_experts * peers
    expert_n = choice_mK.reshape(rows)
    room = tokens * min(choices, local_experts)
    if capacity and peers > 1:
        room = min(room, max(1, round(capacity * rows / peers)))
        kept_n = _rank(expert_n // local_experts, gate_mK.reshape(rows)) < room
        expert_n = jnp.where(kept_n, expert_n, total)
    order_n, position_n = _sort(expert_n)
    count_E = jnp.sum(expert_n[:, None] == jnp.arange(total), 0, dtype=jnp.int32)

    x_nD = permute(x_mD, order_n, position_n, choices)
    gate_n1 = permute(gate_mK.reshape(rows, 1), order_n, position_n)
    if peers == 1:
        y_nD = experts(x_nD, gate_n1[:, 0], *weights, count_E)
    else:
        # Every device learns how many rows each sender has for each expert, so no expert ids travel
        # with the rows.
        count_PE = jax.lax.all_gather(count_E, axes).reshape(peers, peers, local_experts)
        send, give_back, expert_R = transport(count_PE, room, rows, axes)
        order_R, position_R = _sort(expert_R)
        size_E = count_PE[:, _index(axes)].sum(0)
        x_RD, gate_R1 = (permute(send(a_nX), order_R, position_R) for a_nX in (x_nD, gate_n1))
        y_RD = experts(x_RD, gate_R1[:, 0], *weights, size_E)
        y_nD = give_back(permute(y_RD, position_R, order_R))
    return gather_sum(y_nD, position_n, order_n, choices), rows - count_E.sum()


def _fixed(count_PE, room, rows, axes):
    """Transport in `room` rows per peer: rows sorted by expert -> [peers * room] rows by sender,
    padded; and its inverse."""
    peers, me = count_PE.shape[0], _index(axes)
    count_P = count_PE[me].sum(-1)
    start_P = jnp.cumsum(count_P) - count_P
    peer_R, rank_R = jnp.divmod(jnp.arange(peers * room, dtype=jnp.int32), room)
    source_R = jnp.where(rank_R < count_P[peer_R], start_P[peer_R] + rank_R, rows)
    slot_n = (
        jnp.full(rows, peers * room, jnp.int32)
        .at[source_R]
        .set(jnp.arange(peers * room, dtype=jnp.int32), mode="drop")
    )

    def swap(x_RD):
        return jax.lax.all_to_all(x_RD.reshape(peers, room, -1), axes, 0, 0).reshape(
            peers * room, -1
        )

    arriving_PE = count_PE[:, me]
    size_PE = jnp.concatenate([arriving_PE, room - arriving_PE.sum(-1, keepdims=True)], -1)
    expert_R = _blocks(size_PE, peers * room)
    return (
        (lambda x_nD: swap(permute(x_nD, source_R, slot_n))),
        (lambda y_RD: permute(swap(y_RD), slot_n, source_R)),
        expert_R,
    )


def _ragged(count_PE, room, rows, axes):
    """Transport of just the rows there are, into a buffer of the same worst case."""
    peers, me = count_PE.shape[0], _index(axes)
    count_PP = count_PE.sum(-1)  # [sender, receiver]
    sent_P, arriving_P = count_PP[me], count_PP[:, me]
    before_P = (jnp.cumsum(count_PP, 0) - count_PP)[
        me
    ]  # rows that lower senders put in each receiver's buffer
    home_P = (jnp.cumsum(count_PP, 1) - count_PP)[
        :, me
    ]  # where my part began in each sender's rows

    def move(x_ND, length, offset_P, size_P, there_P, back_P):
        empty_ND = vary_like(jnp.zeros((length, x_ND.shape[1]), x_ND.dtype), x_ND)
        return jax.lax.ragged_all_to_all(
            x_ND, empty_ND, offset_P, size_P, there_P, back_P, axis_name=axes
        )

    def send(x_nD):
        return move(x_nD, peers * room, jnp.cumsum(sent_P) - sent_P, sent_P, before_P, arriving_P)

    def give_back(y_RD):
        return move(y_RD, rows, jnp.cumsum(arriving_P) - arriving_P, arriving_P, home_P, sent_P)

    size_PE = (
        jnp.concatenate([count_PE[:, me], jnp.zeros((peers, 1), jnp.int32)], -1)
        .at[-1, -1]
        .set(peers * room - arriving_P.sum())
    )
    return send, give_back, _blocks(size_PE, peers * room)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def permute(x_ND, source_M, target_N, repeat=1):
    """Rows source_M // repeat of x; an index past the end gives zeros.

    target is the inverse (where row n, or its copies, went; past the end if nowhere), so the
    gradient is a gather too and not a slow scatter.
    """
    return x_ND.at[source_M // repeat].get(mode="fill", fill_value=0)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def gather_sum(x_MD, target_N, source_M, repeat=1):
    """The transpose of `permute`: for each so many rows of target, the sum of the rows of x that
    they name, summed in float32."""
    target_kN = target_N.reshape(-1, repeat).T
    parts = (
        x_MD.at[target_n].get(mode="fill", fill_value=0).astype(jnp.float32)
        for target_n in target_kN
    )
    return sum(parts).astype(
        x_MD.dtype
    )  # one after the other: nothing of all the rows is held, as a sum over an axis would


permute.defvjp(
    lambda x, source, target, repeat: (permute(x, source, target, repeat), (source, target)),
    lambda repeat, saved, d_MD: (gather_sum(d_MD, saved[1], saved[0], repeat), None, None),
)
gather_sum.defvjp(
    lambda x, target, source, repeat: (gather_sum(x, target, source, repeat), (source, target)),
    lambda repeat, saved, d_ND: (permute(d_ND, *saved, repeat), None, None),
)


def _sort(key_N):
    """The stable order of the keys, and where each one went."""
    order_N = jnp.argsort(key_N, stable=True).astype(jnp.int32)
    index_N = jnp.arange(key_N.size, dtype=jnp.int32)
    return order_N, jnp.zeros_like(order_N).at[order_N].set(index_N, unique_indices=True)


def _rank(group_n, gate_n):
    """Each row's rank by falling gate among the rows of its group."""
    order_n = jnp.lexsort((-jax.lax.stop_gradient(gate_n), group_n))
    sorted_n = group_n[order_n]
    first_n = jnp.searchsorted(sorted_n, sorted_n, side="left")
    rank_n = jnp.arange(group_n.size, dtype=jnp.int32) - first_n.astype(jnp.int32)
    return jnp.zeros_like(rank_n).at[order_n].set(rank_n, unique_indices=True)


def _blocks(size_PE, length):
    """The column number of every row, for rows laid out block after block."""
    column_PE = jnp.broadcast_to(jnp.arange(size_PE.shape[1]), size_PE.shape)
    return jnp.repeat(column_PE.reshape(-1), size_PE.reshape(-1), total_repeat_length=length)


def _size(axes):
    return jax.lax.axis_size(axes) if axes else 1


def _index(axes):
    return jax.lax.axis_index(axes) if axes else 0


FORMS = {"dense": dense, "static": static, "ragged": ragged}


def pick(name: str, platform: str, peers: int) -> Callable:
    """The form of that name; "auto" is ragged where the backend has a native one and there is
    someone to talk to."""
    return FORMS[
        name if name != "auto" else "ragged" if platform == "tpu" and peers > 1 else "static"
    ]
