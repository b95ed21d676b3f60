"""The mechanism: weights that carry their logical axes, and shardings for whole trees of them."""

from typing import Any

import jax
import numpy as np
from flax import struct
from flax.core import meta
from jax.sharding import NamedSharding

from sharding.rules import sharding, spec


class Named(struct.PyTreeNode, meta.AxisMetadata):
    """An array with its logical axes. Flax stores it as a weight; optax maps over it, so moments
    inherit the axes."""

    value: Any
    axes: str = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "Named":
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict) -> "Named":
        names = self.axes.split()
        names.insert(index, params[meta.PARTITION_NAME])
        return self.replace(axes=" ".join(names))

    def remove_axis(self, index: int, params: dict) -> "Named":
        names = self.axes.split()
        del names[index]
        return self.replace(axes=" ".join(names))


def _is_named(x: Any) -> bool:
    return isinstance(x, Named)


def unbox(tree: Any) -> Any:
    """The bare arrays of a tree of Named."""
    return jax.tree.map(lambda x: x.value if _is_named(x) else x, tree, is_leaf=_is_named)


def axes_of(tree: Any) -> Any:
    """The logical-axes string of every leaf; what carries none (a step counter, a key) is whole:
    ""."""
    return jax.tree.map(lambda x: x.axes if _is_named(x) else "", tree, is_leaf=_is_named)


def shardings(tree: Any) -> Any:
    """A NamedSharding for every array of a (possibly abstract) tree of Named, on the mesh in
    use."""
    return jax.tree.map(sharding, axes_of(tree))


def abstract(tree: Any) -> Any:
    """ShapeDtypeStructs with shardings for an abstract tree of Named: what a restore or an
    ahead-of-time compile needs."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        unbox(tree),
        shardings(tree),
    )


def put_batch(batch: dict[str, np.ndarray], axes: str) -> dict[str, jax.Array]:
    """Host arrays, each process holding its own rows, as global arrays laid out by `axes`."""
    place: NamedSharding = sharding(axes)
    return {
        name: jax.make_array_from_process_local_data(place, rows) for name, rows in batch.items()
    }


def check_divisible(
    sizes: dict[str, int], field: dict[str, str], mesh_sizes: dict[str, int]
) -> None:
    """Raise ValueError when a logical axis does not divide over the mesh axes its rule names.

    `sizes` has the size of each logical axis, `field` the config field that sets it, for the
    message.
    """
    for logical, size in sizes.items():
        split = spec(logical)[0]
        names = (split,) if isinstance(split, str) else split or ()
        parts = int(np.prod([mesh_sizes[name] for name in names], dtype=int))
        if size % parts:
            asked = " x ".join(
                f"mesh.{name} {mesh_sizes[name]}" for name in names if mesh_sizes[name] > 1
            )
            raise ValueError(
                f"{field[logical]} is {size}, which {asked} cannot split evenly: make it "
                f"a multiple of {parts} or shrink the mesh."
            )
