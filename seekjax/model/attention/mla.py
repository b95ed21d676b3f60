"""Multi-head latent attention (V2 section 2.1): keys and values of all heads come from one narrow
latent per token.

    c = norm(w_dkv x)     k_R = rotate(w_kr x), one for all heads
    q = w_uq norm(w_dq x), w_qr norm(w_dq x)
    score = (q_N . w_uk c + rotate(q_R) . k_R) * scale     o = softmax(score) w_uv c

`attend_expanded` forms the keys and values; `attend_absorbed` moves w_uk to the query side and w_uv
behind the sum, so that attention reads only the latent: the form for decoding from a cache.
Training uses a causal kernel on the expanded form (seekjax/kernels/attention.py).

The cache holds C + R numbers per token and layer (V2 section 2.1.4). In fp8 it has FlashMLA's
layout: the latent in E4M3 with one float32 scale for every 128 values, the rotary key in bfloat16;
656 bytes in V3 instead of 1,152.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from seekjax.config import ModelConfig
from seekjax.errors import need
from seekjax.model.attention.kind import (
    AttentionKind,
    Cache,
    CacheEntry,
    attend_causal,
    attend_gathered,
    masked_softmax,
    visible,
    write,
)
from seekjax.model.module import project, rms_norm
from seekjax.model.rope import rotate, softmax_scale
from seekjax.quant import fp8
from seekjax.quant.formats import TrainedInFp8, block, dense, trained
from sharding.rules import constrain, split_by

KEY_BLOCK = 256  # keys that `attend_visible` forms at once


def attend_expanded(
    q_BTHN: Array,
    q_BTHR: Array,
    c_BSC: Array,
    k_BSR: Array,
    w_uk_CHN: Array,
    w_uv_CHU: Array,
    scale: float,
    mask_B1TS: Array,
) -> Array:
    """Attend over keys and values formed from the latents; returns o_BTHU.

    The plain reading of V2 equations 37-47.
    """
    k_BSHN = jnp.einsum("BSC,CHN->BSHN", c_BSC, w_uk_CHN)
    v_BSHU = jnp.einsum("BSC,CHU->BSHU", c_BSC, w_uv_CHU)

    score_BHTS = jnp.einsum("BTHN,BSHN->BHTS", q_BTHN, k_BSHN)
    score_BHTS += jnp.einsum("BTHR,BSR->BHTS", q_BTHR, k_BSR)
    weight_BHTS = masked_softmax(score_BHTS, scale, mask_B1TS)
    return jnp.einsum("BHTS,BSHU->BTHU", weight_BHTS, v_BSHU)


def attend_absorbed(
    q_BTHN: Array,
    q_BTHR: Array,
    c_BSC: Array,
    k_BSR: Array,
    w_uk_CHN: Array,
    w_uv_CHU: Array,
    scale: float,
    mask_B1TS: Array,
) -> Array:
    """Attend in the latent space; returns the same o_BTHU as `attend_expanded`.

    It reads C + R numbers per token, however many heads there are (V2 section 2.1.2).
    """
    q_BTHC = jnp.einsum("BTHN,CHN->BTHC", q_BTHN, w_uk_CHN)

    # The cache is the first operand, in its memory layout: XLA would transpose it to put the few
    # queries first.
    score_BSTH = jnp.einsum("BSC,BTHC->BSTH", c_BSC, q_BTHC)
    score_BSTH += jnp.einsum("BSR,BTHR->BSTH", k_BSR, q_BTHR)
    score_BHTS = score_BSTH.transpose(0, 3, 2, 1)
    weight_BHTS = masked_softmax(score_BHTS, scale, mask_B1TS)

    o_BHTC = jnp.einsum("BHTS,BSC->BHTC", weight_BHTS, c_BSC)
    return jnp.einsum("BHTC,CHU->BTHU", o_BHTC, w_uv_CHU)


def attend_visible(
    q_BTHN: Array,
    q_BTHR: Array,
    c_BSC: Array,
    k_BSR: Array,
    w_uk_CHN: Array,
    w_uv_CHU: Array,
    scale: float,
    mask_B1TS: Array,
) -> Array:
    """Attend as `attend_expanded`, block by block up to the last key that a query sees.

    The form for a chunk of a prompt in a long cache: keys that no query sees cost nothing, and
    scores are never held for all keys. The softmax is summed up as the blocks come (1805.02867).
    """
    B, T, H, _ = q_BTHN.shape
    S = c_BSC.shape[1]
    size = min(KEY_BLOCK, S)
    seen = mask_B1TS[:, 0, -1].any(0).sum()  # by the last query, which sees the most

    def cut(x: Array, begin: Array, axis: int) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, begin, size, axis)

    def add_block(i: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        max_BHT, total_BHT, o_BTHU = sums

        # the last block begins earlier if the cache ends, and leaves out what was summed up
        begin = jnp.minimum(i * size, S - size)
        new_s = begin + jnp.arange(size) >= i * size
        mask_B1Ts = cut(mask_B1TS, begin, 3) & new_s
        c_BsC, k_BsR = cut(c_BSC, begin, 1), cut(k_BSR, begin, 1)

        k_BsHN = jnp.einsum("BsC,CHN->BsHN", c_BsC, w_uk_CHN)
        v_BsHU = jnp.einsum("BsC,CHU->BsHU", c_BsC, w_uv_CHU)
        score_BHTs = jnp.einsum("BTHN,BsHN->BHTs", q_BTHN, k_BsHN)
        score_BHTs += jnp.einsum("BTHR,BsR->BHTs", q_BTHR, k_BsR)
        score_BHTs = score_BHTs.astype(jnp.float32) * scale
        score_BHTs = jnp.where(mask_B1Ts, score_BHTs, -jnp.inf)

        # every query sees the first key, so no maximum is -inf
        new_max_BHT = jnp.maximum(max_BHT, score_BHTs.max(-1))
        weight_BHTs = jnp.exp(score_BHTs - new_max_BHT[..., None])
        shrink_BHT = jnp.exp(max_BHT - new_max_BHT)
        total_BHT = total_BHT * shrink_BHT + weight_BHTs.sum(-1)
        weight_BHTs = weight_BHTs.astype(v_BsHU.dtype)
        new_BTHU = jnp.einsum("BHTs,BsHU->BTHU", weight_BHTs, v_BsHU)
        shrink_BTH1 = shrink_BHT.swapaxes(1, 2)[..., None]
        return new_max_BHT, total_BHT, o_BTHU * shrink_BTH1 + new_BTHU

    nothing = (
        jnp.full((B, H, T), -jnp.inf),
        jnp.zeros((B, H, T)),
        jnp.zeros((B, T, H, w_uv_CHU.shape[-1])),
    )
    _, total_BHT, o_BTHU = jax.lax.fori_loop(0, -(-seen // size), add_block, nothing)
    total_BTH1 = total_BHT.swapaxes(1, 2)[..., None]
    return (o_BTHU / total_BTH1).astype(q_BTHN.dtype)


def attend_latents(
    form: str,
    q_BTHN: Array,
    q_BTHR: Array,
    c_BTC: Array,
    k_BTR: Array,
    up: tuple[Any, Any],
    scale: float,
    segment_BT: Array | None,
) -> Array:
    """Attend causally within whole sequences by the kernel `form`; returns o_BTHU.

    `up` are w_uk and w_uv. Keys and values are formed where the latents are, and where a mesh
    splits sequences, on each device from the gathered latents.
    """

    def expand(c_BSC: Array, *up: Array | TrainedInFp8) -> tuple[Array, Array]:
        k_BSHN, v_BSHU = project(c_BSC, *up, keep="up")
        return k_BSHN, v_BSHU

    if split_by("sequence") > 1:
        return attend_gathered(form, q_BTHN, q_BTHR, c_BTC, k_BTR, up, expand, scale, segment_BT)

    k_BTHN, v_BTHU = expand(c_BTC, *up)
    k_BTHN = constrain(k_BTHN, "batch sequence heads nope")
    v_BTHU = constrain(v_BTHU, "batch sequence heads value")
    return attend_causal(form, q_BTHN, q_BTHR, k_BTHN, k_BTR, v_BTHU, scale, segment_BT)


class LatentAttention(AttentionKind):
    """MLA with or without a query latent."""

    splits_sequences = True
    other_products = ("w_uk", "w_uv")

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        angle: tuple[Array, Array],
        segment_BT: Array | None = None,
        cache: Cache | None = None,
        start: Any = 0,
        attend: Callable | None = attend_absorbed,
    ) -> tuple[Array, Cache | None]:
        """Return the output [B, T, D] and the cache with the new tokens in it (AttentionKind)."""
        m = self.model
        scale = softmax_scale(m, m.nope + m.rotary)

        # Query projection
        q_BTX, c_BTC, k_BTR = self.project_down(x_BTD)
        into = "q_latent" if m.q_latent else "embed"
        w_uq = self.weight("w_uq", f"{into} heads nope")
        w_qr = self.weight("w_qr", f"{into} heads rotary")
        q_BTHN, q_BTHR = project(q_BTX, w_uq, w_qr, keep="up")

        # Key-value projection: the normed latent, and one rotary key for all heads
        c_BTC = rms_norm(c_BTC, self.scale("kv_norm", "kv_latent"), m.latent_eps)
        q_BTHN = constrain(q_BTHN, "batch sequence heads nope")
        q_BTHR = rotate(q_BTHR, *angle)
        k_BTR = rotate(k_BTR, *angle)
        dtype = self.kernel.compute_dtype
        w_uk_CHN = trained(self.weight("w_uk", "kv_latent heads nope"), dtype)
        w_uv_CHU = trained(self.weight("w_uv", "kv_latent heads value"), dtype)
        w_o_HUD = self.weight("w_o", "heads value embed")
        if cache is not None:
            entries = quantize_latents(cache, c_BTC, k_BTR)
            cache = write(cache, start, "batch sequence -", **entries)

        # Attention: over the new tokens alone by the kernel of training, or over the cache
        if cache is None or attend is None:
            up = (w_uk_CHN, w_uv_CHU)
            form = self.kernel.attention
            o_BTHU = attend_latents(form, q_BTHN, q_BTHR, c_BTC, k_BTR, up, scale, segment_BT)
        else:
            mask_B1TS = visible(x_BTD.shape[1], cache["c"].shape[1], start)
            c_BSC, k_BSR = dequantize_latents(cache, x_BTD.dtype)
            up = dense(w_uk_CHN, dtype), dense(w_uv_CHU, dtype)
            o_BTHU = attend(q_BTHN, q_BTHR, c_BSC, k_BSR, *up, scale, mask_B1TS)

        (y_BTD,) = project(o_BTHU, w_o_HUD)
        return constrain(y_BTD, "batch sequence embed"), cache

    def project_down(self, x_BTD: Array) -> tuple[Array, Array, Array]:
        """Return what queries are projected from, the key-value latent, and the rotary key.

        Queries come from their own normed latent, or from x if the model has no query latent
        (V2-Lite). Latent and rotary key are not normed or rotated yet.
        """
        m = self.model
        if not m.q_latent:
            w_dkv = self.weight("w_dkv", "embed kv_latent")
            w_kr = self.weight("w_kr", "embed rotary")
            c_BTC, k_BTR = project(x_BTD, w_dkv, w_kr, keep="latent")
            return x_BTD, c_BTC, k_BTR

        w_dq = self.weight("w_dq", "embed q_latent")
        w_dkv = self.weight("w_dkv", "embed kv_latent")
        w_kr = self.weight("w_kr", "embed rotary")
        q_BTQ, c_BTC, k_BTR = project(x_BTD, w_dq, w_dkv, w_kr, keep="latent")
        q_BTQ = rms_norm(q_BTQ, self.scale("q_norm", "q_latent"), m.latent_eps)
        return q_BTQ, c_BTC, k_BTR

    @classmethod
    def check(cls, model: ModelConfig) -> None:
        """Raise ConfigError unless keys and values have a latent."""
        need(model.kv_latent, "model.kv_latent is 0: model.attention mla needs at least 1.")

    @classmethod
    def split_axes(cls, model: ModelConfig) -> tuple[str, ...]:
        """Return the logical axes of the weights that a mesh may split, but for embed."""
        if model.q_latent:
            return ("heads", "kv_latent", "q_latent")
        return ("heads", "kv_latent")

    @classmethod
    def parameters(cls, model: ModelConfig) -> int:
        """Return the number of weights of one layer, with the norms of its latents."""
        D, H = model.embed, model.heads
        Q, C, R = model.q_latent, model.kv_latent, model.rotary
        key = model.nope + R
        queries = D * H * key
        if Q:
            queries = D * Q + Q + Q * H * key

        down = D * (C + R) + C
        up = C * H * (model.nope + model.value)
        out = H * model.value * D
        return queries + down + up + out

    @classmethod
    def pair_flops(cls, model: ModelConfig) -> int:
        """Return the FLOPs of one query and one key, with keys and values expanded."""
        return 2 * model.heads * (model.nope + model.rotary + model.value)

    @classmethod
    def cache_layout(cls, model: ModelConfig, dtype: str) -> dict[str, CacheEntry]:
        """Return the latent "c", the rotary key "k", and in fp8 the scales of the latent."""
        C, R = model.kv_latent, model.rotary
        if dtype != "fp8":
            return {"c": CacheEntry((C,), dtype), "k": CacheEntry((R,), dtype)}
        return {
            "c": CacheEntry((C,), "float8_e4m3fn"),
            "scale": CacheEntry((C // block(C),), "float32"),
            "k": CacheEntry((R,), "bfloat16"),
        }


def quantize_latents(cache: Cache, c_BTC: Array, k_BTR: Array) -> Cache:
    """Return new tokens' latents and rotary keys in the format of this cache."""
    if "scale" not in cache:
        return {"c": c_BTC, "k": k_BTR}

    groups = cache["scale"].shape[-1]
    c_BTgx = c_BTC.astype(jnp.float32).reshape(*c_BTC.shape[:2], groups, -1)
    scale_BTg = fp8.scale(jnp.abs(c_BTgx).max(-1))
    scaled_BTgx = fp8.clip(c_BTgx / scale_BTg[..., None])
    return {"c": scaled_BTgx.reshape(c_BTC.shape), "scale": scale_BTg, "k": k_BTR}


def dequantize_latents(cache: Cache, dtype: Any) -> tuple[Array, Array]:
    """Return all latents and rotary keys of a cache, c_BSC and k_BSR."""
    c_BSC = cache["c"].astype(dtype)
    k_BSR = cache["k"].astype(dtype)
    if "scale" not in cache:
        return c_BSC, k_BSR

    scale_BSg = cache["scale"]
    c_BSgx = c_BSC.astype(jnp.float32).reshape(*scale_BSg.shape, -1)
    c_BSgx = c_BSgx * scale_BSg[..., None]
    return c_BSgx.reshape(c_BSC.shape).astype(dtype), k_BSR
