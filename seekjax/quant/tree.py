"""Quantised weights in a tree of variables: which weights are quantised, their shapes before they
exist, and the form that a device reads fastest.
"""

from collections.abc import Collection
from functools import cache, partial
from typing import Any

import jax
from jax import Array

from seekjax.axes import contracted
from seekjax.quant.formats import Kind, Quantised, Weight, quantise
from sharding.mesh import platform
from sharding.rules import in_use, sharding, spec


def is_quantised(x: Any) -> bool:
    """Return whether a leaf of a tree is a Quantised weight."""
    return isinstance(x, Quantised)


def quantisable(path: tuple) -> bool:
    """Return whether a weight has a quantised form: every matrix but the router.

    Embedding, head, norms and biases stay as they are.
    """
    name = path[-1].key
    return name.startswith("w_") and name != "w_router"


def quantise_tree(
    params: dict,
    axes: dict,
    kind: Kind,
    consume: bool = False,
) -> dict:
    """Return params with its matrices in a format, one after another where they live.

    `consume` frees each matrix once it is rounded.
    """
    rounded = partial(_quantise_leaf, kind=kind, consume=consume)
    return jax.tree_util.tree_map_with_path(rounded, params, axes)


def _quantise_leaf(
    path: tuple,
    x: Array,
    axes: str,
    kind: Kind,
    consume: bool,
) -> Weight:
    if not quantisable(path):
        return x

    convert = _quantise
    if in_use():
        quantised_axes = _shapes(x.shape, x.dtype, kind, contracted(axes)).axes(axes)
        places = jax.tree.map(sharding, quantised_axes)
        convert = jax.jit(quantise, static_argnames=("kind", "sums"), out_shardings=places)

    quantised = jax.block_until_ready(convert(x, kind=kind, sums=contracted(axes)))
    if consume:
        x.delete()
    return quantised


_quantise = jax.jit(quantise, static_argnames=("kind", "sums"))


@cache
def _shapes(
    shape: tuple[int, ...],
    dtype: Any,
    kind: Kind,
    sums: tuple[int, ...],
) -> Quantised:
    """Return the shapes of what a matrix becomes."""
    w = jax.ShapeDtypeStruct(shape, dtype)
    return jax.eval_shape(partial(quantise, kind=kind, sums=sums), w)


def abstract_tree(params: dict, axes: dict, kind: Kind) -> dict:
    """Return what `quantise_tree` makes of ShapeDtypeStructs, each with its place.

    Raises ValueError if a mesh would cut through a byte.
    """
    leaf = partial(_abstract_leaf, kind=kind)
    return jax.tree_util.tree_map_with_path(leaf, params, axes)


def _abstract_leaf(
    path: tuple,
    x: jax.ShapeDtypeStruct,
    axes: str,
    kind: Kind,
) -> Any:
    if not quantisable(path):
        return x

    quantised = _shapes(x.shape, x.dtype, kind, contracted(axes))
    if in_use():
        places = jax.tree.map(sharding, quantised.axes(axes))
    else:
        places = quantised.replace(values=x.sharding, scale=x.sharding)

    def part_of(a: jax.ShapeDtypeStruct, place: jax.sharding.Sharding) -> tuple[int, ...]:
        return place.shard_shape(a.shape)

    try:
        jax.tree.map(part_of, quantised, places)
    except ValueError as error:
        raise ValueError(
            f"{kind} weights along {axes} cannot be split as this mesh would: "
            f"{quantised.values.shape} by {spec(axes)}; make an axis of --mesh smaller."
        ) from error
    return jax.tree.map(_with_place, quantised, places)


def _with_place(x: jax.ShapeDtypeStruct, place: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def ready(
    name: str,
    w: Quantised,
    dtype: str,
    other_products: Collection[str] = (),
) -> Weight:
    """Return a weight as decoding reads it.

    A CPU has fast products of int8 and of float32 and slow conversions: int4 becomes int8, and fp8
    float32, once. So do the weights of other products than `product`, by their names.
    """
    if platform() != "cpu":
        return w
    if name in other_products or w.kind == "fp8":
        return w.dense(dtype)
    return _as_int8(w) if w.kind == "int4" else w


@jax.jit
def _as_int8(w: Quantised) -> Quantised:
    return quantise(w.dense(), "int8", w.sums)


def tree_bytes(tree: Any) -> int:
    """Return the bytes of all arrays of a tree, over all devices."""
    sizes = [x.nbytes for x in jax.tree.leaves(tree)]
    return sum(sizes)
