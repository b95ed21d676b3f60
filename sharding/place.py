"""The mechanism: weights that carry their logical axes, and shardings for whole trees of them."""

import math
from typing import Any

import jax
import numpy as np
from flax import struct
from flax.core import meta

from sharding.rules import sharding, split_axes


class Named(struct.PyTreeNode, meta.AxisMetadata):
    """An array with its logical axes.

    Flax stores it as a weight; optax maps over it, so that moments inherit the axes.
    """

    value: Any
    axes: str = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        """Return the bare array."""
        return self.value

    def replace_boxed(self, val: Any) -> "Named":
        """Return the same axes around another array."""
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Named":
        """Insert the name of an axis that `nn.scan` stacked at `index`."""
        names = self.axes.split()
        names.insert(index, params[meta.PARTITION_NAME])
        return self.replace(axes=" ".join(names))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Named":
        """Drop the name of the axis at `index`, which `nn.scan` takes apart."""
        names = self.axes.split()
        del names[index]
        return self.replace(axes=" ".join(names))


def unbox(tree: Any) -> Any:
    """Return the bare arrays of a tree of Named."""
    return jax.tree.map(lambda x: x.value if _is_named(x) else x, tree, is_leaf=_is_named)


def axes_of(tree: Any) -> Any:
    """Return the logical-axes string of every leaf.

    A leaf that carries no axes (a step counter, a key) is whole on every device: "".
    """
    return jax.tree.map(lambda x: x.axes if _is_named(x) else "", tree, is_leaf=_is_named)


def put_whole(value: np.ndarray) -> jax.Array:
    """Return a host array that every process has, as a global array whole on every device."""
    return jax.make_array_from_callback(value.shape, sharding(""), lambda index: value[index])


def put_batch(batch: dict[str, np.ndarray], axes: str) -> dict[str, jax.Array]:
    """Return host arrays, of which each process holds its own rows, as global arrays laid out by
    `axes`.
    """
    layout = sharding(axes)
    return {
        name: jax.make_array_from_process_local_data(layout, rows) for name, rows in batch.items()
    }


def check_divisible(
    sizes: dict[str, int],
    field: dict[str, str],
    mesh_sizes: dict[str, int],
) -> None:
    """Raise ValueError if the size of a logical axis does not divide over its mesh axes.

    `sizes` has the size of each logical axis, `field` the config field that sets the size, for the
    message.
    """
    for logical, size in sizes.items():
        names = split_axes(logical)[0]
        parts = math.prod(mesh_sizes[name] for name in names)
        if size % parts == 0:
            continue

        split = [f"mesh.{name} {mesh_sizes[name]}" for name in names if mesh_sizes[name] > 1]
        raise ValueError(
            f"{field[logical]} is {size}, which {' x '.join(split)} cannot split evenly: make it "
            f"a multiple of {parts} or shrink the mesh."
        )


def _is_named(x: Any) -> bool:
    return isinstance(x, Named)
