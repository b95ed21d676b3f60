"""Make arrays inside `shard_map` vary over the same mesh axes, so that one custom gradient serves
all of them.

`shard_map(check_vma=True)` types each array by the mesh axes over which it differs between devices.
A loop carry must keep its type, and a custom gradient must return the type of its input; both hold
by construction if every operand has the union of all types. The cast is free going forward, and its
transpose is the very `psum` that the gradient of an operand shared by several devices needs.
Outside `shard_map` every function here is the identity.
"""

from typing import Any

import jax
from jax import lax


def varying(*arrays: Any) -> frozenset[str]:
    """Return the mesh axes over which any of the arrays (or trees of arrays) differs between
    devices.
    """
    axes: frozenset[str] = frozenset()
    for array in jax.tree.leaves(arrays):
        axes |= jax.typeof(array).manual_axis_type.varying
    return axes


def vary(*arrays: Any) -> Any:
    """Return the same arrays (or trees), all varying over the union of their mesh axes."""
    axes = varying(*arrays)
    return jax.tree.map(lambda array: _cast(array, axes - varying(array)), arrays)


def vary_like(tree: Any, *arrays: Any) -> Any:
    """Return `tree` (fresh constants, as a loop's first carry) varying over every axis that
    `arrays` vary over.
    """
    axes = varying(*arrays)
    return jax.tree.map(lambda leaf: _cast(leaf, axes - varying(leaf)), tree)


def _cast(array: jax.Array, axes: frozenset[str]) -> jax.Array:
    return lax.pcast(array, tuple(sorted(axes)), to="varying") if axes else array
