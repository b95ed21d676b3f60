"""A kind of attention of a user's own, in one file: grouped-query attention (GQA, 2305.13245).

Heads share keys and values in groups, J of them for H heads. Named on the command line as

    python train.py --model.attention tests.scripts.own_attention:GQA --model.sizes kv_heads 2
        --model.nope 0
"""

import flax.linen as nn
import jax.numpy as jnp

from seekjax.errors import need
from seekjax.model.attention.kind import (
    AttentionKind,
    CacheEntry,
    attend_causal,
    masked_softmax,
    visible,
    write,
)
from seekjax.model.module import project
from seekjax.model.rope import rotate, softmax_scale
from sharding.rules import constrain


class GQA(AttentionKind):
    """Multi-head attention with `kv_heads` heads of keys and values; the whole head is rotary."""

    own_axes = {"kv_heads": "heads"}

    @nn.compact
    def __call__(self, x_BTD, angle, segment_BT, cache, start, attend):
        scale = softmax_scale(self.model, self.model.rotary)

        # Queries, keys and values
        w_q = self.weight("w_q", "embed heads rotary")
        w_k = self.weight("w_k", "embed kv_heads rotary")
        w_v = self.weight("w_v", "embed kv_heads value")
        (q_BTHR,) = project(x_BTD, w_q, keep="up")
        (k_BTJR,) = project(x_BTD, w_k, keep="up")
        (v_BTJU,) = project(x_BTD, w_v, keep="up")
        q_BTHR = rotate(q_BTHR, *angle)
        k_BTJR = rotate(k_BTJR, *angle)
        if cache is not None:
            cache = write(cache, start, "batch sequence kv_heads -", k=k_BTJR, v=v_BTJU)

        # Attention: over the new tokens alone by the kernel of training, or over the cache
        if cache is None or attend is None:
            k_BTHR = self.for_every_head(k_BTJR)
            v_BTHU = self.for_every_head(v_BTJU)
            no_q_BTR, no_k_BTR = q_BTHR[..., :0], k_BTHR[:, :, 0, :0]
            form = self.kernel.attention
            o_BTHU = attend_causal(
                form, q_BTHR, no_q_BTR, k_BTHR, no_k_BTR, v_BTHU, scale, segment_BT
            )
        else:
            k_BSHR = self.for_every_head(cache["k"].astype(x_BTD.dtype))
            v_BSHU = self.for_every_head(cache["v"].astype(x_BTD.dtype))
            mask_B1TS = visible(x_BTD.shape[1], k_BSHR.shape[1], start)
            score_BHTS = jnp.einsum("BTHR,BSHR->BHTS", q_BTHR, k_BSHR)
            weight_BHTS = masked_softmax(score_BHTS, scale, mask_B1TS)
            o_BTHU = jnp.einsum("BHTS,BSHU->BTHU", weight_BHTS, v_BSHU)

        (y_BTD,) = project(o_BTHU, self.weight("w_o", "heads value embed"))
        return constrain(y_BTD, "batch sequence embed"), cache

    def for_every_head(self, x_BTJX):
        """Return keys or values with each of the J heads repeated for the queries' heads."""
        repeated_BTHX = jnp.repeat(x_BTJX, self.model.heads // x_BTJX.shape[2], 2)
        return constrain(repeated_BTHX, "batch sequence heads -")

    @classmethod
    def check(cls, model):
        heads, shared = model.heads, model.size("kv_heads")
        need(model.nope == 0, "GQA rotates the whole head: set model.nope to 0.")
        need(
            heads % shared == 0,
            f"model.heads {heads} cannot share {shared} kv_heads: make it a multiple.",
        )

    @classmethod
    def parameters(cls, model):
        D, H, J = model.embed, model.heads, model.size("kv_heads")
        queries = D * H * model.rotary
        keys_and_values = D * J * (model.rotary + model.value)
        return queries + keys_and_values + H * model.value * D

    @classmethod
    def pair_flops(cls, model):
        return 2 * model.heads * (model.rotary + model.value)

    @classmethod
    def cache_layout(cls, model, dtype):
        dtype = "bfloat16" if dtype == "fp8" else dtype
        J = model.size("kv_heads")
        return {
            "k": CacheEntry((J, model.rotary), dtype),
            "v": CacheEntry((J, model.value), dtype),
        }
