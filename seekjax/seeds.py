"""From the seed of a run, any whole number from 0 to below 2^63, to random keys.

JAX keeps the lower 32 bits of a seed alone, and some libraries refuse longer ones. Here different
seeds give different numbers, and those below 2^32 the keys that JAX has for them.
"""

import jax
import numpy as np
from jax import Array

SHORT = 2**32


def root_key(seed: int) -> Array:
    """Return the key of a seed: that of its lower half, with the upper half folded in."""
    upper, lower = divmod(seed, SHORT)
    key = jax.random.key(np.uint32(lower))
    return jax.random.fold_in(key, np.uint32(upper)) if upper else key


def row_keys(seed: int, rows: int) -> Array:
    """Return the keys of the seeds from `seed` on, [B]."""
    last = seed + rows - 1
    if last >= SHORT:
        keys = [root_key(row) for row in range(seed, last + 1)]
        return jax.numpy.stack(keys)
    seed_B = np.arange(seed, last + 1, dtype=np.uint32)
    return jax.vmap(jax.random.key)(seed_B)


def short_seed(seed: int) -> int:
    """Return a seed below 2^32: the seed itself, or a hash of a longer one."""
    if seed < SHORT:
        return seed
    return int(np.random.SeedSequence(seed).generate_state(1)[0])
