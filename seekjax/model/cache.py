"""The decoding cache: per token and layer one latent and one rotary key, C + R numbers (V2 section
2.1.4).

In fp8 as FlashMLA has it: the latent in E4M3 with one float32 scale for every 128 values, the
rotary key in bfloat16; 656 bytes in V3 instead of 1,152. Full keys and values per head, the
baseline's, are then in bfloat16.
"""

import jax
import jax.numpy as jnp

from seekjax.config import KernelConfig, ModelConfig
from seekjax.quant.formats import E4M3_FLOOR, E4M3_MAX, block


def empty_cache(model: ModelConfig, batch: int, slots: int, dtype: str = "float32") -> dict:
    """Zeros for `slots` positions of every layer: {"dense_layers", "expert_layers"} -> {"c": [L, B,
    S, C], "k": [L, B, S, R]}."""
    layers = {
        "dense_layers": (model.dense_layers,),
        "expert_layers": (model.layers - model.dense_layers,),
    }
    return {
        stack: layer_cache(model, batch, slots, dtype, count)
        for stack, count in layers.items()
        if all(count)
    }


def layer_cache(
    model: ModelConfig, batch: int, slots: int, dtype: str = "float32", stack: tuple[int, ...] = ()
) -> dict:
    """The cache of one layer, or of a stack of them; dtype as `cache_dtype` has it."""
    if dtype == "fp8" and model.attention == "mla":
        c, scales, k = (
            (*stack, batch, slots, width)
            for width in (model.kv_latent, model.kv_latent // block(model.kv_latent), model.rotary)
        )
        return {
            "c": jnp.zeros(c, jnp.float8_e4m3fn),
            "scale": jnp.zeros(scales, jnp.float32),
            "k": jnp.zeros(k, jnp.bfloat16),
        }
    dtype = "bfloat16" if dtype == "fp8" else dtype
    if model.attention == "mla":
        widths = {"c": (model.kv_latent,), "k": (model.rotary,)}
    else:
        widths = {"k": (model.heads, model.rotary), "v": (model.heads, model.value)}
    return {
        name: jnp.zeros((*stack, batch, slots, *width), dtype) for name, width in widths.items()
    }


def cache_dtype(kernel: KernelConfig) -> str:
    """float32, bfloat16 or fp8."""
    return kernel.dtype if kernel.cache == "same" else kernel.cache


def packed(cache: dict, c_BTC, k_BTR) -> dict:
    """New tokens' latents and rotary keys as this cache stores them."""
    if "scale" not in cache:
        return {"c": c_BTC, "k": k_BTR}
    groups_BTgx = c_BTC.astype(jnp.float32).reshape(*c_BTC.shape[:2], cache["scale"].shape[-1], -1)
    scale_BTg = jnp.maximum(jnp.abs(groups_BTgx).max(-1), E4M3_FLOOR) / E4M3_MAX
    values_BTgx = jnp.clip(groups_BTgx / scale_BTg[..., None], -E4M3_MAX, E4M3_MAX)
    return {"c": values_BTgx.reshape(c_BTC.shape), "scale": scale_BTg, "k": k_BTR}


def latents(cache: dict, dtype) -> tuple[jax.Array, jax.Array]:
    """All latents and rotary keys, c_BSC and k_BSR."""
    c_BSC, k_BSR = cache["c"].astype(dtype), cache["k"].astype(dtype)
    if "scale" in cache:
        scale_BSg = cache["scale"]
        c_BSC = (
            (c_BSC.astype(jnp.float32).reshape(*scale_BSg.shape, -1) * scale_BSg[..., None])
            .reshape(c_BSC.shape)
            .astype(dtype)
        )
    return c_BSC, k_BSR


def cache_bytes(cache: dict) -> int:
    """What the cache occupies over all devices."""
    return sum(x.nbytes for x in jax.tree.leaves(cache))
