"""Multi-head latent attention (V2 section 2.1): keys and values of all heads from one narrow latent
per token.

    # c = norm(w_dkv x)     k_R = rotate(w_kr x), one for all heads
    q = w_uq norm(w_dq x), w_qr norm(w_dq x)
    score = (q_N . w_uk c + rotate(q_R) . k_R) * scale                 o = softmax(score) w_uv c

`attend_expanded` forms the keys and values; `attend_absorbed` moves w_uk to the query side and w_uv
behind the sum, so that attention reads only the latent, as decoding from a cache wants. Training
uses a causal kernel on the expanded form (seekjax/kernels/attention.py).
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from seekjax.kernels import attention as kernels
from seekjax.model.cache import latents, packed
from seekjax.model.module import Weighted, project, rms_norm
from seekjax.model.rope import rotate, softmax_scale
from seekjax.quant.formats import dense
from sharding.mesh import platform
from sharding.rules import constrain, local


def attend_expanded(q_BTHN, q_BTHR, c_BSC, k_BSR, w_uk_CHN, w_uv_CHU, scale, mask_B1TS):
    """Attention over keys and values formed from the latents; o_BTHU. The plain reading of V2
    equations 37-47."""
    k_BSHN = jnp.einsum("BSC,CHN->BSHN", c_BSC, w_uk_CHN)
    v_BSHU = jnp.einsum("BSC,CHU->BSHU", c_BSC, w_uv_CHU)
    score_BHTS = jnp.einsum("BTHN,BSHN->BHTS", q_BTHN, k_BSHN) + jnp.einsum(
        "BTHR,BSR->BHTS", q_BTHR, k_BSR
    )
    weight_BHTS = masked_softmax(score_BHTS, scale, mask_B1TS)
    return jnp.einsum("BHTS,BSHU->BTHU", weight_BHTS, v_BSHU)


def attend_absorbed(q_BTHN, q_BTHR, c_BSC, k_BSR, w_uk_CHN, w_uv_CHU, scale, mask_B1TS):
    """The same attention in the latent space: C + R numbers read per token, however many heads (V2
    section 2.1.2)."""
    q_BTHC = jnp.einsum("BTHN,CHN->BTHC", q_BTHN, w_uk_CHN)
    # The cache stands first in the product, as it lies in memory: XLA would turn it around to put
    # the few queries first.
    score_BSTH = jnp.einsum("BSC,BTHC->BSTH", c_BSC, q_BTHC) + jnp.einsum(
        "BSR,BTHR->BSTH", k_BSR, q_BTHR
    )
    weight_BHTS = masked_softmax(score_BSTH.transpose(0, 3, 2, 1), scale, mask_B1TS)
    o_BHTC = jnp.einsum("BHTS,BSC->BHTC", weight_BHTS, c_BSC)
    return jnp.einsum("BHTC,CHU->BTHU", o_BHTC, w_uv_CHU)


def masked_softmax(score_BHTS, scale, mask_B1TS):
    """Softmax over S in float32, in the dtype of the scores."""
    score32_BHTS = jnp.where(mask_B1TS, score_BHTS.astype(jnp.float32) * scale, -jnp.inf)
    return jax.nn.softmax(score32_BHTS, -1).astype(score_BHTS.dtype)


def attend_causal(kernel: str, q_BTHN, q_BTHR, k_BTHN, k_BTR, v_BTHU, scale, segment_BT):
    """A whole causal sequence through the chosen kernel, each device on its own sequences and
    heads."""
    attend = kernels.pick(platform()) if kernel == "auto" else getattr(kernels, f"attend_{kernel}")
    batch = ("batch sequence",) if segment_BT is not None else ()
    axes = (
        "batch sequence heads nope",
        "batch sequence heads rotary",
        "batch sequence heads nope",
        "batch sequence rotary",
        "batch sequence heads value",
        *batch,
    )
    arrays = (q_BTHN, q_BTHR, k_BTHN, k_BTR, v_BTHU, *((segment_BT,) if batch else ()))
    opaque = attend is kernels.attend_splash  # it has no rule for what differs between devices
    return local(
        lambda *a: attend(*a[:5], scale, *a[5:]), axes, "batch sequence heads value", opaque
    )(*arrays)


class LatentAttention(Weighted):
    """MLA with or without a query latent.

    With a cache, T new tokens are written at `start` (one position, or [B]) and attend to all
    before them; with attend=None they see only each other, which is all there is where the cache
    was empty, and the kernel of training does it.
    """

    @nn.compact
    def __call__(self, x_BTD, angle, segment_BT=None, cache=None, start=0, attend=attend_absorbed):
        m, eps = self.model, self.model.norm_eps
        down = [self.weight("w_dq", "embed q_latent")] if m.q_latent else []
        *q_BTX, c_BTC, k_BTR = project(
            x_BTD,
            *down,
            self.weight("w_dkv", "embed kv_latent"),
            self.weight("w_kr", "embed rotary"),
            keep="latent",
        )
        q_axis = "q_latent" if m.q_latent else "embed"
        q_BTX = rms_norm(*q_BTX, self.scale("q_norm", "q_latent"), eps) if m.q_latent else x_BTD
        q_BTHN, q_BTHR = project(
            q_BTX,
            self.weight("w_uq", f"{q_axis} heads nope"),
            self.weight("w_qr", f"{q_axis} heads rotary"),
            keep="up",
        )
        c_BTC = rms_norm(c_BTC, self.scale("kv_norm", "kv_latent"), eps)
        q_BTHN, q_BTHR = constrain(q_BTHN, "batch sequence heads nope"), rotate(q_BTHR, *angle)
        k_BTR = rotate(k_BTR, *angle)
        w_uk_CHN = dense(self.weight("w_uk", "kv_latent heads nope"), self.kernel.dtype)
        w_uv_CHU = dense(self.weight("w_uv", "kv_latent heads value"), self.kernel.dtype)
        w_o_HUD = self.weight("w_o", "heads value embed")
        cache = cache and write(cache, start, **packed(cache, c_BTC, k_BTR))
        if cache is None or attend is None:
            k_BTHN, v_BTHU = project(c_BTC, w_uk_CHN, w_uv_CHU, keep="up")
            k_BTHN, v_BTHU = (
                constrain(k_BTHN, "batch sequence heads nope"),
                constrain(v_BTHU, "batch sequence heads value"),
            )
            o_BTHU = attend_causal(
                self.kernel.attention,
                q_BTHN,
                q_BTHR,
                k_BTHN,
                k_BTR,
                v_BTHU,
                softmax_scale(m),
                segment_BT,
            )
        else:
            mask_B1TS = visible(x_BTD.shape[1], cache["c"].shape[1], start)
            o_BTHU = attend(
                q_BTHN,
                q_BTHR,
                *latents(cache, x_BTD.dtype),
                w_uk_CHN,
                w_uv_CHU,
                softmax_scale(m),
                mask_B1TS,
            )
        return constrain(*project(o_BTHU, w_o_HUD), "batch sequence embed"), cache


class MultiHeadAttention(Weighted):
    """The baseline that MLA replaced (DeepSeekMoE-16B): full keys and values per head, all of the
    head rotary."""

    @nn.compact
    def __call__(self, x_BTD, angle, segment_BT=None, cache=None, start=0, attend=attend_absorbed):
        q_BTHR, k_BTHR, v_BTHU = project(
            x_BTD,
            *(
                self.weight(f"w_{name}", f"embed heads {axis}")
                for name, axis in (("q", "rotary"), ("k", "rotary"), ("v", "value"))
            ),
            keep="up",
        )
        q_BTHR, k_BTHR = rotate(q_BTHR, *angle), rotate(k_BTHR, *angle)
        w_o_HUD = self.weight("w_o", "heads value embed")
        scale = softmax_scale(self.model)
        cache = cache and write(cache, start, k=k_BTHR, v=v_BTHU)
        if (
            cache is None or attend is None
        ):  # the kernels' per-head part carries the whole head, their shared rotary part is empty
            o_BTHU = attend_causal(
                self.kernel.attention,
                q_BTHR,
                q_BTHR[..., :0],
                k_BTHR,
                k_BTHR[:, :, 0, :0],
                v_BTHU,
                scale,
                segment_BT,
            )
        else:
            k_BSHR, v_BSHU = (cache[name].astype(x_BTD.dtype) for name in ("k", "v"))
            score_BHTS = jnp.einsum("BTHR,BSHR->BHTS", q_BTHR, k_BSHR)
            weight_BHTS = masked_softmax(
                score_BHTS, scale, visible(x_BTD.shape[1], cache["k"].shape[1], start)
            )
            o_BTHU = jnp.einsum("BHTS,BSHU->BTHU", weight_BHTS, v_BSHU)
        return constrain(*project(o_BTHU, w_o_HUD), "batch sequence embed"), cache


def visible(length: int, slots: int, start) -> jax.Array:
    """Query t, at position start + t, sees the cache slots up to its own; [B, 1, T, S], with B = 1
    where all rows start at one position."""
    position_B1T1 = jnp.reshape(start, (-1, 1, 1, 1)) + jnp.arange(length)[:, None]
    return jnp.arange(slots) <= position_B1T1


def write(cache: dict, start, **new: jax.Array) -> dict:
    """The cache with the new tokens' entries from position `start` on, each row from its own where
    start is [B]."""
    put = partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
    if jnp.ndim(start):
        put = jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=0))
    axes = {3: "batch sequence -", 4: "batch sequence heads -"}
    return {
        name: constrain(put(cache[name], x.astype(cache[name].dtype), start), axes[x.ndim])
        for name, x in new.items()
    }
