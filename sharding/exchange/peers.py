"""The devices that share out the experts, named by their mesh axes; () is one device."""

import jax

Axes = tuple[str, ...]


def peer_count(axes: Axes) -> int:
    """Return the number of devices along `axes`."""
    return jax.lax.axis_size(axes) if axes else 1


def peer_index(axes: Axes) -> jax.Array | int:
    """Return this device's number along `axes`."""
    return jax.lax.axis_index(axes) if axes else 0


def gather_tokens(arrays: tuple[jax.Array, ...], axes: Axes) -> tuple[jax.Array, ...]:
    """Return arrays of one row per token with the rows of all peers, one peer after the other."""
    if not axes:
        return arrays
    return tuple(jax.lax.all_gather(array, axes, tiled=True) for array in arrays)


def scatter_sum(y_mD: jax.Array, axes: Axes) -> jax.Array:
    """Return the sum over all peers, of which each peer gets its own tokens' rows."""
    return jax.lax.psum_scatter(y_mD, axes, tiled=True) if axes else y_mD
