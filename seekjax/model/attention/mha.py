"""Multi-head attention: the baseline that MLA replaced (DeepSeekMoE-16B).

Full keys and values per head, all of the head rotary; the cache holds H (R + U) numbers per token
and layer.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from seekjax.config import ModelConfig
from seekjax.errors import need
from seekjax.model.attention.kind import (
    AttentionKind,
    Cache,
    CacheEntry,
    attend_causal,
    masked_softmax,
    visible,
    write,
)
from seekjax.model.module import project
from seekjax.model.rope import rotate, softmax_scale
from sharding.rules import constrain


class MultiHeadAttention(AttentionKind):
    """Attention with keys and values of its own for every head.

    Where sequences are split, all of them are gathered: H (R + U) numbers per token.
    """

    splits_sequences = True

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        angle: tuple[Array, Array],
        segment_BT: Array | None,
        cache: Cache | None,
        start: Any,
        attend: Callable | None,
    ) -> tuple[Array, Cache | None]:
        """Return the output [B, T, D] and the cache with the new tokens in it (AttentionKind)."""
        scale = softmax_scale(self.model, self.model.rotary)

        # Queries, keys and values
        w_q = self.weight("w_q", "embed heads rotary")
        w_k = self.weight("w_k", "embed heads rotary")
        w_v = self.weight("w_v", "embed heads value")
        q_BTHR, k_BTHR, v_BTHU = project(x_BTD, w_q, w_k, w_v, keep="up")
        q_BTHR = rotate(q_BTHR, *angle)
        k_BTHR = rotate(k_BTHR, *angle)
        w_o_HUD = self.weight("w_o", "heads value embed")
        if cache is not None:
            cache = write(cache, start, "batch sequence heads -", k=k_BTHR, v=v_BTHU)

        # Attention: over the new tokens alone by the kernel of training, or over the cache
        if cache is None or attend is None:
            # The kernels' per-head part carries the whole head; their shared rotary part is empty.
            no_q_BTHR = q_BTHR[..., :0]
            no_k_BTR = k_BTHR[:, :, 0, :0]
            form = self.kernel.attention
            o_BTHU = attend_causal(
                form, q_BTHR, no_q_BTHR, k_BTHR, no_k_BTR, v_BTHU, scale, segment_BT
            )
        else:
            k_BSHR = cache["k"].astype(x_BTD.dtype)
            v_BSHU = cache["v"].astype(x_BTD.dtype)
            score_BHTS = jnp.einsum("BTHR,BSHR->BHTS", q_BTHR, k_BSHR)
            mask_B1TS = visible(x_BTD.shape[1], cache["k"].shape[1], start)
            weight_BHTS = masked_softmax(score_BHTS, scale, mask_B1TS)
            o_BTHU = jnp.einsum("BHTS,BSHU->BTHU", weight_BHTS, v_BSHU)

        (y_BTD,) = project(o_BTHU, w_o_HUD)
        return constrain(y_BTD, "batch sequence embed"), cache

    @classmethod
    def check(cls, model: ModelConfig) -> None:
        """Raise ConfigError unless the whole head is rotary."""
        need(model.nope == 0, "model.attention mha rotates the whole head: set model.nope to 0.")

    @classmethod
    def parameters(cls, model: ModelConfig) -> int:
        """Return the number of weights of one layer."""
        query = key = model.heads * model.rotary
        value = out = model.heads * model.value
        return model.embed * (query + key + value + out)

    @classmethod
    def pair_flops(cls, model: ModelConfig) -> int:
        """Return the FLOPs of one query and one key, over all heads: score and weighted sum."""
        return 2 * model.heads * (model.rotary + model.value)

    @classmethod
    def cache_layout(cls, model: ModelConfig, dtype: str) -> dict[str, CacheEntry]:
        """Return keys "k" and values "v" of every head; bfloat16 in place of fp8."""
        dtype = "bfloat16" if dtype == "fp8" else dtype
        return {
            "k": CacheEntry((model.heads, model.rotary), dtype),
            "v": CacheEntry((model.heads, model.value), dtype),
        }
