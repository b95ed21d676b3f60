"""Make arrays inside `shard_map` vary over the same mesh axes, so that one custom gradient serves
them all.

`shard_map(check_vma=True)` types each array by the mesh axes over which it differs between devices.
A loop carry must keep its type and a custom gradient must return the type of its input; both hold
by construction once every operand has the union of all types. The cast is free going forward, and
its transpose is the very `psum` that the gradient of an operand shared by several devices needs.
Outside `shard_map`: the identity.
"""

import jax
from jax import lax


def varying(*arrays):
    """The mesh axes over which any of the arrays, or of the arrays in trees of them, differs
    between devices, as a set of names."""
    return frozenset().union(
        *(jax.typeof(array).manual_axis_type.varying for array in jax.tree.leaves(arrays))
    )


def vary(*arrays):
    """The same arrays (or trees of them), all varying over the union of their mesh axes."""
    axes = varying(*arrays)
    return jax.tree.map(lambda array: _cast(array, axes - varying(array)), arrays)


def vary_like(tree, *arrays):
    """`tree` (fresh constants, as a loop's first carry) varying over every axis that `arrays` vary
    over."""
    axes = varying(*arrays)
    return jax.tree.map(lambda leaf: _cast(leaf, axes - varying(leaf)), tree)


def _cast(array, axes):
    return lax.pcast(array, tuple(sorted(axes)), to="varying") if axes else array
