"""Silent data corruption: a gradient computed twice must come out the same, bit for bit.

A device that computes wrongly, or whose memory loses a bit, shows no error. So every
train.recompute_every steps the gradient of one micro-batch is computed twice by one program, and
the bits of the weights and of the gradient are summed on each device after each. A sum of bits
modulo 2^32 differs if any single bit does.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from seekjax.placement import without_mesh
from seekjax.train.skip import names
from seekjax.train.state import TrainState
from seekjax.train.training import Batch, Gradient

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
SHOWN = 3  # arrays that a message names

Sums = dict[Any, np.ndarray]  # by device


class Recomputation:
    """Computes a gradient twice and compares."""

    def __init__(self, gradient: Gradient):
        self.gradient = gradient

    def __call__(self, state: TrainState, batch: Batch) -> str:
        """Return which devices and arrays differed between two computations, "" if none did."""
        first = self.measure(state, batch)
        second = self.measure(state, batch)
        text = difference(first, second, names({"params": state.params, "gradient": state.params}))
        if jax.process_count() == 1:
            return text

        # All processes return to the checkpoint if one of them must.
        any_differs = np.any(multihost_utils.process_allgather(np.array(bool(text))))
        return text or ("on devices of another process" if any_differs else "")

    def measure(self, state: TrainState, batch: Batch) -> Sums:
        """Return the sums of the bits of weights and gradient, by device."""
        return sums_of_bits({"params": state.params, "gradient": self.gradient(state, batch)})


def difference(first: Sums, second: Sums, labels: list[str]) -> str:
    """Return which devices differ in which arrays, "" if none does.

    A device whose weights changed is named alone: the gradients of the others depend on it.
    """
    changed, different = [], []
    for device, sums in first.items():
        unequal = np.flatnonzero(sums != second[device])
        if not len(unequal):
            continue
        arrays = [labels[i] for i in unequal]
        weights = [name for name in arrays if name.startswith("params/")]
        text = f"{device} differs in {', '.join((weights or arrays)[:SHOWN])}"
        (changed if weights else different).append(text)
    return "; ".join(changed or different)


def sums_of_bits(tree: Any) -> Sums:
    """Return the sum of the bits of every array of a tree, modulo 2^32, by device of this process.

    A device sums the part of each array that it holds, so that a difference names it.
    """
    parts: dict[Any, list[jax.Array]] = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            parts.setdefault(shard.device, []).append(shard.data)

    # Each device alone, although a mesh of all of them is in use.
    on_devices = without_mesh(
        lambda: {device: _sum_bits(arrays) for device, arrays in parts.items()}
    )
    return {device: np.asarray(sums) for device, sums in on_devices.items()}


@jax.jit
def _sum_bits(arrays: list[jax.Array]) -> jax.Array:
    """Return the sum of the bits of each array as unsigned integers, modulo 2^32."""
    sums = []
    for x in arrays:
        bits = jax.lax.bitcast_convert_type(x, UNSIGNED[x.dtype.itemsize])
        sums.append(bits.astype(jnp.uint32).sum(dtype=jnp.uint32))
    return jnp.stack(sums)
