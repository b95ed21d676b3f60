"""The variables of a model before they exist: shapes, types, logical axes and places."""

from functools import cache

import jax
import jax.numpy as jnp

from seekjax.config import KernelConfig, ModelConfig
from seekjax.errors import RunError
from seekjax.model.check import split_sizes
from seekjax.model.transformer import Transformer
from seekjax.quant.tree import abstract_tree
from sharding.place import axes_of, unbox
from sharding.rules import in_use, sharding, split_by

# The kernels that take the least time to trace.
SIMPLEST = KernelConfig(attention="plain", experts="loop", remat="none")


def abstract_variables(model: ModelConfig, kernel: KernelConfig) -> dict:
    """Return {"params", "balance"} as ShapeDtypeStructs, each with its place.

    The place follows from the rules on the mesh in use, or is the default device. Raises RunError
    if the mesh cannot split the model.
    """
    for name, size in split_sizes(model).items():
        parts = split_by(name)
        if size % parts:
            raise RunError(
                f"the model's {name} is {size}, which this mesh cannot split {parts} ways: make an "
                "axis of --mesh smaller."
            )

    named = named_variables(model)
    axes = axes_of(named)
    placed = jax.tree.map(_placed, unbox(named), axes)
    if kernel.weights != "float32" or kernel.vocabulary != "float32":
        try:
            params = placed["params"]
            placed["params"] = abstract_tree(params, axes["params"], kernel)
        except ValueError as error:
            raise RunError(str(error)) from error
    return placed


def named_variables(model: ModelConfig) -> dict:
    """Return {"params", "balance"} before they exist, each with its logical axes."""
    length = max(8, 2 * split_by("sequence"))
    return dict(_traced(model, split_by("batch"), length))


@cache
def _traced(model: ModelConfig, rows: int, length: int) -> dict:
    """Trace the initialisation, which takes longer than reading a small model.

    The variables are the same whichever kernels run.
    """
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    init = Transformer(model, SIMPLEST).init
    named = jax.eval_shape(init, jax.random.key(0), tokens)
    return {"params": named["params"], "balance": named.get("balance", {})}


def _placed(x: jax.ShapeDtypeStruct, axes: str) -> jax.ShapeDtypeStruct:
    if in_use():
        place = sharding(axes)
    else:
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
