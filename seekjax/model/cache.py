"""The decoding cache: what the attention kind keeps of every token and layer.

Its arrays have slots, one per position: [B, S, ...] for one layer, [L, B, S, ...] for a stack.
"""

import jax
import jax.numpy as jnp
from jax import Array

from seekjax.config import KernelConfig, ModelConfig
from seekjax.model.attention import ATTENTION


def empty_cache(
    model: ModelConfig,
    batch: int,
    slots: int,
    dtype: str = "float32",
) -> dict:
    """Return zeros for `slots` positions of every layer, as {"dense_layers", "expert_layers"}."""
    cache = {}
    for stack, layers in model.stacks.items():
        cache[stack] = layer_cache(model, batch, slots, dtype, (layers,))
    return cache


def layer_cache(
    model: ModelConfig,
    batch: int,
    slots: int,
    dtype: str = "float32",
    stack: tuple[int, ...] = (),
) -> dict[str, Array]:
    """Return the empty cache of one layer, or of a stack of layers; dtype as `cache_dtype` has."""
    layout = ATTENTION.find(model.attention).cache_layout(model, dtype)
    cache = {}
    for name, entry in layout.items():
        shape = (*stack, batch, slots, *entry.shape)
        cache[name] = jnp.zeros(shape, entry.dtype)
    return cache


def cache_dtype(kernel: KernelConfig) -> str:
    """Return the type of the cache: float32, bfloat16 or fp8."""
    return kernel.compute_dtype if kernel.cache == "same" else kernel.cache


def cache_bytes(cache: dict) -> int:
    """Return the bytes that the cache occupies over all devices."""
    sizes = [x.nbytes for x in jax.tree.leaves(cache)]
    return sum(sizes)
