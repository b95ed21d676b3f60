"""The decoding cache: per token and layer one latent and one rotary key, C + R numbers (V2 section 2.1.4)."""

import jax
import jax.numpy as jnp

from seekjax.config import ModelConfig


def empty_cache(model: ModelConfig, batch: int, slots: int, dtype: str = "float32") -> dict:
    """Zeros for `slots` positions of every layer: {"dense_layers", "expert_layers"} -> {"c": [L, B, S, C], "k": [L, B, S, R]}."""
    layers = {"dense_layers": (model.dense_layers,), "expert_layers": (model.layers - model.dense_layers,)}
    return {stack: layer_cache(model, batch, slots, dtype, count) for stack, count in layers.items() if all(count)}


def layer_cache(model: ModelConfig, batch: int, slots: int, dtype: str = "float32", stack: tuple[int, ...] = ()) -> dict:
    """The cache of one layer, or of a stack of them."""
    if model.attention == "mla":
        widths = {"c": (model.kv_latent,), "k": (model.rotary,)}
    else:
        widths = {"k": (model.heads, model.rotary), "v": (model.heads, model.value)}
    return {name: jnp.zeros((*stack, batch, slots, *width), dtype) for name, width in widths.items()}


def cache_bytes(cache: dict) -> int:
    """What the cache occupies over all devices."""
    return sum(x.nbytes for x in jax.tree.leaves(cache))
