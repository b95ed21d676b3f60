"""Context parallelism: the devices along some mesh axes share out the positions of each sequence.

All work on single tokens happens where the tokens are. Attention needs what earlier tokens left for
later ones, and gathers it (`gather`).

In causal attention a late position has more to compute than an early one. So a sequence is cut into
twice as many chunks as there are devices, and device r holds chunks r and 2 parts - 1 - r: an early
and a late one, which together have as much to see on each device (`held`). An array whose sequence
is split lies in this order, and not in that of positions.

Functions with `axes` run inside `local`, on each device's own positions; with () there is one part
and nothing is moved.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sharding.exchange.peers import Axes, peer_count, peer_index


def held(length: int, parts: int) -> np.ndarray:
    """Return the positions in the order in which the devices hold them, [T].

    Raises ValueError unless each device can hold two chunks of equal size.
    """
    if parts == 1:
        return np.arange(length, dtype=np.int32)
    if length % (2 * parts):
        raise ValueError(
            f"a sequence of {length} positions cannot be cut into {2 * parts} equal chunks, two "
            f"for each of {parts} devices: make it a multiple of {2 * parts}."
        )
    chunks = np.arange(length, dtype=np.int32).reshape(2 * parts, -1)
    early, late = chunks[:parts], chunks[parts:][::-1]
    return np.concatenate([early, late], axis=1).reshape(-1)


def lay_out(x_BT: jax.Array, parts: int, axis: int = 1) -> jax.Array:
    """Return an array whose sequence is in the order of positions in the order of `held`."""
    if parts == 1:
        return x_BT
    return jnp.take(x_BT, held(x_BT.shape[axis], parts), axis)


def own_positions(length: int, axes: Axes) -> jax.Array:
    """Return the positions of the `length` tokens that this device holds of each sequence, [t]."""
    parts = peer_count(axes)
    position_rt = held(parts * length, parts).reshape(parts, length)
    return jnp.asarray(position_rt)[peer_index(axes)]


def gather(x_btX: jax.Array, axes: Axes) -> jax.Array:
    """Return the whole sequences, in the order of positions, [b, T, X].

    Its transpose adds the gradients of all devices and leaves each the sum for its own positions.
    """
    if not axes:
        return x_btX
    b, t, *X = x_btX.shape
    parts = peer_count(axes)
    gathered = jax.lax.all_gather(x_btX, axes, axis=1, tiled=True)

    # The early chunks of all devices follow each other, the late ones come the other way round.
    chunks = gathered.reshape(b, parts, 2, t // 2, *X)
    early, late = chunks[:, :, 0], chunks[:, ::-1, 1]
    return jnp.concatenate([early, late], axis=1).reshape(b, parts * t, *X)


def in_order(x_btX: jax.Array, axes: Axes) -> jax.Array:
    """Return this device's share of the sequences in the order of positions: chunks 2r and 2r + 1.

    Each device has one chunk of an even number and one of an odd number, and gives both away: two
    permutations of devices.
    """
    if not axes:
        return x_btX
    parts, me = peer_count(axes), peer_index(axes)
    early, late = jnp.split(x_btX, 2, axis=1)

    # The early chunk of device r has the number r.
    is_even = me % 2 == 0
    even = jnp.where(is_even, early, late)
    odd = jnp.where(is_even, late, early)

    to_even, to_odd = [], []
    for r in range(parts):
        for chunk in (r, 2 * parts - 1 - r):
            (to_odd if chunk % 2 else to_even).append((r, chunk // 2))
    even = jax.lax.ppermute(even, axes, to_even)
    odd = jax.lax.ppermute(odd, axes, to_odd)
    return jnp.concatenate([even, odd], axis=1)
