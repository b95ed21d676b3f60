"""What kernels over logits share: a vocabulary that is split over devices, and tiles of rows, so
that the logits of all rows are never held at once.

`axes` names the mesh axes that share out the vocabulary inside `shard_map`; with () each device has
the whole vocabulary.
"""

import jax
import jax.numpy as jnp
from jax import lax

Axes = tuple[str, ...]


def first_token(width: int, axes: Axes) -> jax.Array | int:
    """Return the id of the first token of this device's part, which has `width` tokens."""
    return lax.axis_index(axes) * width if axes else 0


def log_sum_exp(
    logit_mV: jax.Array,
    axes: Axes,
    *sums_m: jax.Array,
) -> tuple[jax.Array, ...]:
    """Return log sum exp over the whole vocabulary, and the sums of `sums_m` over its parts.

    The further sums travel in the same collective. No gradient goes through the maximum, which
    cancels.
    """
    max_m = lax.stop_gradient(logit_mV).max(axis=1)
    if axes:
        max_m = lax.pmax(max_m, axes)

    total_m = jnp.exp(logit_mV - max_m[:, None]).sum(axis=1)
    if axes:
        total_m, *sums = lax.psum((total_m, *sums_m), axes)
    else:
        sums = sums_m
    return max_m + jnp.log(total_m), *sums


def row_tiles(a_MX: jax.Array, rows: int) -> jax.Array:
    """Return a_MX in n equal tiles of at most `rows` rows, [n, m, ...], the last one padded with
    zeros.
    """
    M = a_MX.shape[0]
    count = -(-M // rows)
    tile = -(-M // count)
    padding = [(0, count * tile - M)] + [(0, 0)] * (a_MX.ndim - 1)
    return jnp.pad(a_MX, padding).reshape(count, tile, *a_MX.shape[1:])
