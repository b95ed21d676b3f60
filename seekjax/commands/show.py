"""`seekjax show`: every array of a run and where it lives, from its config alone.

Nothing is allocated, and no accelerator is needed.
"""

import math
import typing
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from seekjax.axes import contracted
from seekjax.commands.arguments import parse
from seekjax.config import Config, KernelConfig
from seekjax.config.formats import Kind
from seekjax.errors import ConfigError
from seekjax.placement import use_mesh
from seekjax.post.names import check_names
from seekjax.quant.tree import abstract_tree, is_quantised, quantisable, stored_shapes
from seekjax.train.state import RunSpec, TrainState
from seekjax.train.validate import validate
from sharding import show as listing
from sharding.mesh import abstract_mesh


def show(argv: list[str]) -> None:
    """Run the command: print the table of a config or a run."""
    print(table(parse(argv, "seekjax show")))


def table(config: Config) -> str:
    """Return one line per array on the config's mesh, totals, and what quantising would save.

    Quantised weights are listed as they are stored, without moments, because they cannot be
    trained. If mesh.data is 0, it is what the devices here leave to it, at least 1. Raises
    ConfigError as a run would.
    """
    kernel = config.kernel
    trained = replace(kernel, weights="float32", vocabulary="float32")
    config = replace(config, kernel=trained)
    mesh_of = partial(abstract_mesh, devices=jax.device_count())
    check_names(config)
    validate(config, mesh_of)

    with use_mesh(mesh_of(config.mesh)) as mesh:
        spec = RunSpec(config)
        state, axes = spec.abstract_state(), spec.state_axes()
        groups = array_rows(state, axes, kernel)

    sizes = [math.prod(x.shape) for x in jax.tree.leaves(state.params)]
    heading = f"{sum(sizes):,} parameters, prediction modules included, on "
    parts = [
        listing.table(groups["parameters"] + groups["balance bias"]),
        heading + listing.describe(mesh),
        listing.totals(groups),
        savings(weight_bytes(state.params, axes.params)),
    ]
    return "\n\n".join(parts)


def array_rows(
    state: TrainState, axes: TrainState, kernel: KernelConfig
) -> dict[str, list[listing.Row]]:
    """Return the rows of each group of arrays, with the weights stored as `kernel` says."""
    balance = listing.rows(state.balance, axes.balance)
    if kernel.weights != "float32" or kernel.vocabulary != "float32":
        weights = _quantised_rows(state.params, axes.params, kernel)
        return {"parameters": weights, "balance bias": balance}

    groups = {
        "parameters": listing.rows(state.params, axes.params),
        "moments": listing.rows(state.opt_state, axes.opt_state),
        "balance bias": balance,
    }
    if state.ema is not None:
        groups["moving average"] = listing.rows(state.ema, axes.ema)
    return groups


def weight_bytes(params: Any, axes: Any) -> dict[str, int]:
    """Return the bytes of all weights by the type in which they are stored.

    The types are float32, as trained; bfloat16, as published; and those of `seekjax quantize`.
    """

    def size(tree: Any, element: int | None = None) -> int:
        total = 0
        for x in jax.tree.leaves(tree):
            total += math.prod(x.shape) * (element or x.dtype.itemsize)
        return total

    def stored(kind: Kind, path: Any, x: Any, names: str) -> Any:
        if not quantisable(path):
            return x
        return stored_shapes(x.shape, x.dtype, kind, contracted(names))

    sizes = {"float32": size(params), "bfloat16": size(params, 2)}
    for kind in typing.get_args(Kind):
        sizes[kind] = size(jax.tree_util.tree_map_with_path(partial(stored, kind), params, axes))
    return sizes


def savings(sizes: dict[str, int]) -> str:
    """Return one line per type of weights: bytes in all, and how much less than float32."""
    full = sizes["float32"]
    lines = [("weights kept in", "in all", "saved")]
    for name, size in sizes.items():
        saved = "-"
        if size < full:
            saved = f"{listing.human(full - size)}, {1 - size / full:.0%}"
        lines.append((name, listing.human(size), saved))
    return listing.align(lines, left=1)


def _quantised_rows(params: Any, axes: Any, kernel: KernelConfig) -> list[listing.Row]:
    """The values and scales of each matrix, placed by the mesh in use."""
    try:
        stored = abstract_tree(params, axes, kernel)
    except ValueError as error:
        raise ConfigError(str(error)) from error

    def axes_of(names: str, x: Any) -> Any:
        return x.axes(names) if is_quantised(x) else names

    return listing.rows(stored, jax.tree.map(axes_of, axes, stored))
