"""Every array of a run and where it lives, from its config alone: nothing is allocated, no device
is needed.
"""

import math
import typing
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from seekjax.axes import contracted
from seekjax.commands.arguments import parse
from seekjax.config import Config
from seekjax.errors import ConfigError
from seekjax.placement import use_mesh
from seekjax.quant.formats import Kind, quantise
from seekjax.quant.tree import abstract_tree, is_quantised, quantisable
from seekjax.train.state import RunSpec
from seekjax.train.validate import validate
from sharding import show as listing
from sharding.mesh import abstract_mesh


def show(argv: list[str]) -> None:
    """Run the command: print the table of a config or a run."""
    print(table(parse(argv, "seekjax show")))


def table(config: Config) -> str:
    """One line per array on the config's mesh, the totals of parameters, moments and balance, and
    what quantising the weights saves.

    Quantised weights are shown as they are kept, without the moments of a training that they cannot
    have. Where mesh.data is 0 it is what the devices here leave to it, at least 1. Raises
    ConfigError as a run would.
    """
    mesh_of, kind = partial(abstract_mesh, devices=jax.device_count()), config.kernel.weights
    config = replace(config, kernel=replace(config.kernel, weights="float32"))
    validate(config, mesh_of)
    with use_mesh(mesh_of(config.mesh)) as mesh:
        plan = RunSpec(config)
        state, axes = plan.abstract_state(), plan.state_axes()
        groups = {
            "parameters": listing.rows(state.params, axes.params),
            "moments": listing.rows(state.opt_state, axes.opt_state),
            "balance bias": listing.rows(state.balance, axes.balance),
        }
        if state.ema is not None:
            groups["moving average"] = listing.rows(state.ema, axes.ema)
        if kind != "float32":
            groups = {
                "parameters": _quantised_rows(state.params, axes.params, kind),
                "balance bias": groups["balance bias"],
            }
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
    heading = f"{count:,} parameters, prediction modules included, on {listing.describe(mesh)}"
    return "\n".join(
        (
            listing.table(groups["parameters"] + groups["balance bias"]),
            "",
            heading,
            "",
            listing.totals(groups),
            "",
            _savings(weight_bytes(state.params, axes.params)),
        )
    )


def weight_bytes(params: Any, axes: Any) -> dict[str, int]:
    """Bytes of all weights by the type they are kept in: float32, as trained; bfloat16, as
    published; and those of `seekjax quantize`.
    """

    def quantised(kind, path, x, names):
        return (
            jax.eval_shape(partial(quantise, kind=kind, sums=contracted(names)), x)
            if quantisable(path)
            else x
        )

    def size(tree, element=None):
        return sum(
            math.prod(x.shape) * (element or x.dtype.itemsize) for x in jax.tree.leaves(tree)
        )

    return {"float32": size(params), "bfloat16": size(params, 2)} | {
        kind: size(jax.tree_util.tree_map_with_path(partial(quantised, kind), params, axes))
        for kind in typing.get_args(Kind)
    }


def _quantised_rows(params: Any, axes: Any, kind: Kind) -> list[listing.Row]:
    """Values and scales of each matrix, where the mesh in use has them."""
    try:
        small = abstract_tree(params, axes, kind)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return listing.rows(
        small,
        jax.tree.map(lambda names, x: x.axes(names) if is_quantised(x) else names, axes, small),
    )


def _savings(sizes: dict[str, int]) -> str:
    """One line per type of weights: bytes in all, and how much less than float32."""
    whole = sizes["float32"]
    lines = [("weights kept in", "in all", "saved")]
    for name, size in sizes.items():
        saved = f"{listing.human(whole - size)}, {1 - size / whole:.0%}" if size < whole else "-"
        lines.append((name, listing.human(size), saved))
    return listing.align(lines, left=1)
