"""Redundant experts: a model's variables with copies of popular experts, placed so that the devices
of a mesh have about the same load (V3 section 3.4).

The router, its bias and every record know logical experts. What changes is where their weights are:
a layer then has P physical experts instead of E, and a token goes to one of the copies of each
expert that it chose. Beside "params" and "balance" the variables get a collection "placement".
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from seekjax.config import ModelConfig
from sharding.place import put_whole
from sharding.replicate import Placement

WEIGHTS = ("w_gate", "w_up", "w_down")


def with_replicas(
    model: ModelConfig,
    variables: dict[str, Any],
    placements: Sequence[Placement],
) -> dict[str, Any]:
    """Return the variables with the weights of each layer laid out by its placement.

    `placements`: of each expert layer, then of each prediction module. Call it on the mesh in use.
    """
    params = dict(variables["params"])
    placed: dict[str, Any] = {}
    layers = model.stacks["expert_layers"]

    stack = params["expert_layers"]
    columns = _stacked(placements[:layers])
    params["expert_layers"] = {**stack, "ffn": _gathered(stack["ffn"], columns["logical_P"])}
    placed["expert_layers"] = {"ffn": _on_devices(columns)}

    for depth, placement in enumerate(placements[layers:], 1):
        name = f"mtp_{depth}"
        module = params[name]
        ffn = _gathered(module["block"]["ffn"], placement.logical_P)
        params[name] = {**module, "block": {**module["block"], "ffn": ffn}}
        placed[name] = {"block": {"ffn": _on_devices(placement._asdict())}}
    return {**variables, "params": params, "placement": placed}


def _stacked(placements: Sequence[Placement]) -> dict[str, np.ndarray]:
    """Return the placements of a stack's layers by field, with an axis of layers in front."""
    most = max(placement.physical_EC.shape[1] for placement in placements)
    physical = []
    for placement in placements:
        missing = most - placement.physical_EC.shape[1]
        physical.append(np.pad(placement.physical_EC, ((0, 0), (0, missing)), constant_values=-1))
    return {
        "logical_P": np.stack([placement.logical_P for placement in placements]),
        "physical_EC": np.stack(physical),
        "copies_E": np.stack([placement.copies_E for placement in placements]),
    }


def _on_devices(fields: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Return a placement's fields as arrays that every device has whole."""
    return {name: put_whole(value.astype(np.int32)) for name, value in fields.items()}


def _gathered(ffn: dict[str, Any], logical: np.ndarray) -> dict[str, Any]:
    """Return a feed-forward layer with the weights of these logical experts, [P] or [L, P].

    Each stays split as it was.
    """
    moved = dict(ffn)
    for name in WEIGHTS:
        moved[name] = jax.tree.map(partial(_rows_of, logical=logical), ffn[name])
    return moved


def _rows_of(x: Array, logical: np.ndarray) -> Array:
    index = (logical,) if logical.ndim == 1 else (np.arange(len(logical))[:, None], logical)
    return jax.jit(lambda x: x[index], out_shardings=x.sharding)(x)
