"""Quantised weights in a tree of variables: which of them are, what they look like before they
exist, and as a device reads them best."""

from functools import partial

import jax

from seekjax.quant.formats import Kind, Quantised, contracted, quantise
from sharding.mesh import platform
from sharding.rules import in_use, sharding, spec

WRITTEN_OUT = (
    "w_uk",
    "w_uv",
    "w_token",
    "w_hidden",
)  # used in other products than `product`: narrow ones, and those of the prediction modules


def is_quantised(x) -> bool:
    return isinstance(x, Quantised)


def chosen(path) -> bool:
    """Every matrix but the router; embedding, head, norms and biases stay as they are."""
    name = path[-1].key
    return name.startswith("w_") and name != "w_router"


def quantise_tree(params: dict, axes: dict, kind: Kind, consume: bool = False) -> dict:
    """Params with its matrices in a format, one after another where they live; `consume` frees each
    once it is rounded."""

    def one(path, x, names):
        if not chosen(path):
            return x
        made = partial(quantise, kind=kind, sums=contracted(names))
        places = jax.tree.map(sharding, jax.eval_shape(made, x).axes(names)) if in_use() else None
        found = jax.block_until_ready(jax.jit(made, out_shardings=places)(x))
        if consume:
            x.delete()
        return found

    return jax.tree_util.tree_map_with_path(one, params, axes)


def abstract_tree(params: dict, axes: dict, kind: Kind) -> dict:
    """What `quantise_tree` makes of ShapeDtypeStructs, each with its place. Raises ValueError where
    a mesh would cut through a byte."""

    def one(path, x, names):
        if not chosen(path):
            return x
        made = jax.eval_shape(lambda w: quantise(w, kind, contracted(names)), x)
        places = (
            jax.tree.map(sharding, made.axes(names))
            if in_use()
            else made.replace(values=x.sharding, scale=x.sharding)
        )
        try:
            jax.tree.map(lambda a, place: place.shard_shape(a.shape), made, places)
        except ValueError as error:
            raise ValueError(
                f"{kind} weights along {names} cannot be split as this mesh would: "
                f"{made.values.shape} by {spec(names)}; "
                "make an axis of --mesh smaller."
            ) from error
        return jax.tree.map(
            lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), made, places
        )

    return jax.tree_util.tree_map_with_path(one, params, axes)


def ready(name: str, w: Quantised, dtype: str):
    """A weight as decoding reads it. A CPU has fast products of int8 and of float32 and slow
    conversions: int4 becomes int8, and fp8 float32, once."""
    if platform() != "cpu":
        return w
    if name in WRITTEN_OUT or w.kind == "fp8":
        return w.dense(dtype)
    return (
        _as_int8(w, (w.inner - 1, w.inner) if name == "w_o" else (w.inner,))
        if w.kind == "int4"
        else w
    )


@partial(jax.jit, static_argnums=1)
def _as_int8(w: Quantised, sums: tuple[int, ...]) -> Quantised:
    return quantise(w.dense(), "int8", sums)


def tree_bytes(tree) -> int:
    """Of all arrays, over all devices."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))
