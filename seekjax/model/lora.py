"""Low-rank adapters as pure functions (LoRA, 2106.09685)."""

import math
import zlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from seekjax.axes import Matrix, has_experts, inner_matrix
from seekjax.config import LoraConfig
from seekjax.seeds import root_key
from sharding.rules import constrain


def adapted(axes: str, lora: LoraConfig) -> Matrix | None:
    """Return the axes of a matrix that gets an adapter, None for other weights.

    Embedding, head, router and norms never get one, routed experts only if lora.experts is on.
    """
    parts = inner_matrix(axes)
    if has_experts(axes) and (_is_router(axes) or not lora.experts):
        return None
    return parts


def adapter_axes(axes: Any, lora: LoraConfig) -> Any:
    """Return the logical axes of each adapter, for a tree of those of the weights.

    The rank is whole on every device.
    """
    pair = partial(_pair_axes, lora=lora)
    return _pruned(jax.tree.map(pair, axes))


def adapters(
    params: Any,
    axes: Any,
    lora: LoraConfig,
    seed: int,
) -> Any:
    """Return the first adapters: a with variance 1 / inputs, b zero."""
    pair = partial(_pair, lora=lora, key=root_key(seed))
    return _pruned(jax.tree_util.tree_map_with_path(pair, axes, params))


def merge(
    base: Any,
    params: Any,
    axes: Any,
    lora: LoraConfig,
) -> Any:
    """Return the weights with their adapters added."""
    if isinstance(base, dict):
        merged = {}
        for name, part in base.items():
            pairs = params.get(name, {})
            merged[name] = merge(part, pairs, axes[name], lora)
        return merged
    if not params:
        return base

    parts = adapted(axes, lora)
    assert parts is not None, axes
    a, b = params["a"], params["b"]
    stack = parts.stack
    over_rank = (a.ndim - 1,), (len(stack),)
    change = jax.lax.dot_general(a, b, (over_rank, (stack, stack)))
    return base + constrain(lora.alpha / lora.rank * change, axes)


def _pair_axes(axes: str, lora: LoraConfig) -> dict[str, str] | None:
    parts = adapted(axes, lora)
    if parts is None:
        return None
    names = axes.split()
    stack = [names[i] for i in parts.stack]
    inputs = [names[i] for i in parts.inputs]
    outputs = [names[i] for i in parts.outputs]
    return {
        "a": " ".join([*stack, *inputs, "-"]),
        "b": " ".join([*stack, "-", *outputs]),
    }


def _pair(
    path: tuple,
    axes: str,
    w: Array,
    lora: LoraConfig,
    key: Array,
) -> dict[str, Array] | None:
    parts = adapted(axes, lora)
    if parts is None:
        return None
    stack = [w.shape[i] for i in parts.stack]
    inputs = [w.shape[i] for i in parts.inputs]
    outputs = [w.shape[i] for i in parts.outputs]

    name = jax.tree_util.keystr(path)
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    a_shape = (*stack, *inputs, lora.rank)
    b_shape = (*stack, lora.rank, *outputs)
    a = jax.random.normal(key, a_shape, jnp.float32)
    b = jnp.zeros(b_shape, jnp.float32)
    return {"a": a * math.prod(inputs) ** -0.5, "b": b}


def _is_router(axes: str) -> bool:
    """Return whether the experts are a matrix's outputs, not its stack."""
    return axes.split()[-1] == "experts"


def _pruned(tree: Any) -> Any:
    """Return nested dicts without None, and without dicts that this leaves empty.

    Returns None if nothing is left.
    """
    if not isinstance(tree, dict):
        return tree
    kept = {}
    for name, value in tree.items():
        part = _pruned(value)
        if part is not None:
            kept[name] = part
    return kept or None
