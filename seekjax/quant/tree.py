"""Quantised weights in a tree of variables: which weights are quantised, their shapes before they
exist, and the form that a device reads fastest.
"""

import math
from collections.abc import Callable, Collection
from functools import cache, partial
from typing import Any

import jax
from jax import Array

from seekjax.axes import contracted
from seekjax.config import KernelConfig
from seekjax.quant.formats import Kind, Quantised, Weight, quantise
from sharding.mesh import platform
from sharding.rules import in_use, sharding, spec


def is_quantised(x: Any) -> bool:
    """Return whether a leaf of a tree is a Quantised weight."""
    return isinstance(x, Quantised)


def quantisable(path: tuple) -> bool:
    """Return whether a weight has a quantised form in every run: every matrix but the router.

    Norms and biases stay as they are; embedding and head have a setting of their own.
    """
    name = path[-1].key
    return name.startswith("w_") and name != "w_router"


def stored_kind(path: tuple, kernel: KernelConfig) -> Kind | None:
    """Return the format of a weight by the run's settings, None for an array."""
    if quantisable(path):
        return None if kernel.weights == "float32" else kernel.weights
    if _is_vocabulary(path) and kernel.vocabulary == "int8":
        return "int8"
    return None


def sums_of(path: tuple, axes: str) -> tuple[int, ...]:
    """Return the axes that share a scale: the contracted ones, and in the embedding each row."""
    return (-1,) if path[-1].key == "embed" else contracted(axes)


def quantise_tree(
    params: dict,
    axes: dict,
    kernel: KernelConfig,
    consume: bool = False,
) -> dict:
    """Return params as `kernel` stores them, one after another where they live.

    `consume` frees each matrix once it is rounded.
    """
    rounded = partial(_quantise_leaf, kernel=kernel, consume=consume)
    return jax.tree_util.tree_map_with_path(rounded, params, axes)


def quantiser(
    path: tuple,
    axes: str,
    kind: Kind,
    x: jax.ShapeDtypeStruct | Array,
) -> Callable[[Array], Quantised]:
    """Return a compiled function that rounds a matrix of this shape where it lives.

    Without a mesh, the experts of a layer are rounded one after another, in the memory of one.
    """
    sums = sums_of(path, axes)
    if not in_use():
        return _alone(kind, sums, axes.startswith("experts "))

    places = jax.tree.map(sharding, stored_shapes(x.shape, x.dtype, kind, sums).axes(axes))
    return _placed(places)


@cache
def _placed(places: Quantised) -> Callable[[Array], Quantised]:
    """Return the compiled function of these places; layers of one shape share it."""
    convert = partial(quantise, kind=places.kind, sums=places.sums)
    return jax.jit(convert, out_shardings=places)


@cache
def _alone(kind: Kind, sums: tuple[int, ...], has_experts: bool) -> Callable[[Array], Quantised]:
    """Return the compiled function without a mesh; layers of one shape share it."""
    convert: Callable = partial(quantise, kind=kind, sums=sums)
    return jax.jit(partial(jax.lax.map, convert) if has_experts else convert)


def _quantise_leaf(
    path: tuple,
    x: Array,
    axes: str,
    kernel: KernelConfig,
    consume: bool,
) -> Weight:
    kind = stored_kind(path, kernel)
    if kind is None:
        return x.astype(kernel.vocabulary) if _is_vocabulary(path) else x

    quantised = jax.block_until_ready(quantiser(path, axes, kind, x)(x))
    if consume:
        x.delete()
    return quantised


@cache
def stored_shapes(
    shape: tuple[int, ...],
    dtype: Any,
    kind: Kind,
    sums: tuple[int, ...],
) -> Quantised:
    """Return the shapes of what a matrix becomes."""
    w = jax.ShapeDtypeStruct(shape, dtype)
    return jax.eval_shape(partial(quantise, kind=kind, sums=sums), w)


def _is_vocabulary(path: tuple) -> bool:
    return path[-1].key in ("embed", "head")


def abstract_tree(params: dict, axes: dict, kernel: KernelConfig) -> dict:
    """Return what `quantise_tree` makes of ShapeDtypeStructs, each with its place.

    Raises ValueError if a mesh would cut through a byte.
    """
    leaf = partial(_abstract_leaf, kernel=kernel)
    return jax.tree_util.tree_map_with_path(leaf, params, axes)


def _abstract_leaf(
    path: tuple,
    x: jax.ShapeDtypeStruct,
    axes: str,
    kernel: KernelConfig,
) -> Any:
    kind = stored_kind(path, kernel)
    if kind is None:
        return x.update(dtype=kernel.vocabulary) if _is_vocabulary(path) else x

    quantised = stored_shapes(x.shape, x.dtype, kind, sums_of(path, axes))
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
    """Return the bytes of all arrays of a tree, over all devices; they need not exist yet."""
    sizes = [math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)]
    return sum(sizes)
