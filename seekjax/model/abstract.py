"""The variables of a model before they exist: shapes, types, logical axes and places."""

import jax
import jax.numpy as jnp

from seekjax.config import KernelConfig, ModelConfig
from seekjax.config.validate import split_sizes
from seekjax.errors import RunError
from seekjax.model.transformer import Transformer
from seekjax.quant.tree import abstract_tree
from sharding.place import axes_of, unbox
from sharding.rules import in_use, sharding, split_by


def abstract_variables(model: ModelConfig, kernel: KernelConfig) -> dict:
    """{"params", "balance"} as ShapeDtypeStructs, each with its place by the rules on the mesh in
    use, or on the default device.

    Raises RunError where that mesh cannot split the model.
    """
    for name, size in split_sizes(model).items():
        if size % split_by(name):
            raise RunError(
                f"the model's {name} is {size}, which this mesh cannot split "
                f"{split_by(name)} ways: make an axis of --mesh smaller."
            )
    named = named_variables(model, kernel)
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = jax.tree.map(
        lambda x, axes: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding(axes) if in_use() else default
        ),
        unbox(named),
        axes_of(named),
    )
    if kernel.weights != "float32":
        try:
            placed["params"] = abstract_tree(
                placed["params"], axes_of(named)["params"], kernel.weights
            )
        except ValueError as error:
            raise RunError(str(error)) from error
    return placed


def named_variables(model: ModelConfig, kernel: KernelConfig) -> dict:
    """{"params", "balance"} before they exist, each with its logical axes."""
    tokens = jax.ShapeDtypeStruct((split_by("batch"), 8), jnp.int32)
    named = jax.eval_shape(Transformer(model, kernel).init, jax.random.key(0), tokens)
    return {"params": named["params"], "balance": named.get("balance", {})}
