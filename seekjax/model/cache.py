"""The decoding cache: per token and layer one latent and one rotary key, C + R numbers (V2 section 2.1.4)."""

import jax
import jax.numpy as jnp

from seekjax.config import ModelConfig


def empty_cache(model: ModelConfig, batch: int, slots: int, dtype: str = "float32") -> dict:
    """Zeros for `slots` positions of every layer: {"dense", "expert"} -> {"c": [L, B, S, C], "k": [L, B, S, R]}."""
    if model.attention == "mla":
        widths = {"c": (model.kv_latent,), "k": (model.rotary,)}
    else:
        widths = {"k": (model.heads, model.rotary), "v": (model.heads, model.value)}
    layers = {"dense": model.dense_layers, "expert": model.layers - model.dense_layers}
    return {stack: {name: jnp.zeros((count, batch, slots, *width), dtype) for name, width in widths.items()}
            for stack, count in layers.items() if count}


def cache_bytes(cache: dict) -> int:
    """What the cache occupies over all devices."""
    return sum(x.nbytes for x in jax.tree.leaves(cache))
