"""Low-rank adapters as pure functions (LoRA, 2106.09685)."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp

from seekjax.config import LoraConfig
from seekjax.model.axes import matrix
from sharding.rules import constrain

STACKED = ("layers", "experts")


def adapted(axes: str, lora: LoraConfig) -> bool:
    """Whether a weight with these axes gets an adapter."""
    names = axes.split()
    inner = [name for name in names if name not in STACKED]
    return len(inner) > 1 and "vocab" not in names and (lora.experts or "experts" not in names)


def adapter_axes(axes: Any, lora: LoraConfig) -> Any:
    """The logical axes of each adapter, for a tree of those of the weights; the rank is whole on
    every device."""

    def pair(names: str) -> dict[str, str] | None:
        if not adapted(names, lora):
            return None
        stack, into, out = sides(names)
        return {"a": " ".join((*stack, *into, "-")), "b": " ".join((*stack, "-", *out))}

    return _pruned(jax.tree.map(pair, axes))


def sides(axes: str) -> tuple[list[str], list[str], list[str]]:
    """The axes that stack matrices, those they multiply from, and those they multiply to."""
    names = axes.split()
    numbers = matrix(axes)
    into = [names[i] for i in numbers.reduction_axis]
    return [name for name in names if name in STACKED], into, names[-len(numbers.output_axis) :]


def adapters(params: Any, axes: Any, lora: LoraConfig, seed: int) -> Any:
    """The first adapters: a with variance 1 / inputs, b zero."""

    def pair(path, names: str, w: jax.Array) -> dict[str, jax.Array] | None:
        if not adapted(names, lora):
            return None
        stack, into, _ = sides(names)
        cut, size = len(stack) + len(into), 1
        for length in w.shape[len(stack) : cut]:
            size *= length
        key = jax.random.fold_in(
            jax.random.key(seed), zlib.crc32(jax.tree_util.keystr(path).encode())
        )
        return {
            "a": jax.random.normal(key, (*w.shape[:cut], lora.rank), jnp.float32) * size**-0.5,
            "b": jnp.zeros((*w.shape[: len(stack)], lora.rank, *w.shape[cut:]), jnp.float32),
        }

    return _pruned(jax.tree_util.tree_map_with_path(pair, axes, params))


def merge(base: Any, params: Any, axes: Any, lora: LoraConfig) -> Any:
    """The weights with their adapters added."""

    def walk(w: Any, pair: Any, names: Any) -> Any:
        if isinstance(w, dict):
            return {name: walk(w[name], pair.get(name, {}), names[name]) for name in w}
        if not pair:
            return w
        stack = tuple(range(len(sides(names)[0])))
        a, b = pair["a"], pair["b"]
        change = jax.lax.dot_general(a, b, (((a.ndim - 1,), (len(stack),)), (stack, stack)))
        return w + constrain(lora.alpha / lora.rank * change, names)

    return walk(base, params, axes)


def _pruned(tree: Any) -> Any:
    """Nested dicts without what is None, and without dicts that this leaves empty; None for nothing
    at all."""
    if not isinstance(tree, dict):
        return tree
    kept = {name: part for name, whole in tree.items() if (part := _pruned(whole)) is not None}
    return kept or None
