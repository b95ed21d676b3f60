"""Causal attention of MLA in training: softmax((q_N k_N + q_R k_R) scale) v, the rotary key shared
by all heads (arXiv:2405.04434, section 2.1.3).

Every form is `attend_X(q_BTHN, q_BTHR, k_BTHN, k_BTR, v_BTHU, scale, segment_BT=None) -> o_BTHU`,
causal over equal positions, its softmax in fp32. With segment_BT (int32; packed documents) a token
sees only earlier tokens of its own segment. A below stands for the joined width N + R.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from sharding.vary import vary, vary_like

# Queries and keys of one tile of `attend_block`: small enough for one head's scores to stay in the
# cache from matmul to matmul.
TILE = 64
# finite, so that a row whose keys are all masked in one tile gives no NaN; its sum is wiped out by
# the diagonal tile
MASKED = -1e30


def pick(platform):
    """The fastest form on a platform ("cpu", "gpu" or "tpu")."""
    return {"cpu": attend_block, "gpu": attend_dot, "tpu": attend_splash}[platform]


def attend_plain(q_BTHN, q_BTHR, k_BTHN, k_BTR, v_BTHU, scale, segment_BT=None):
    """Plain form: holds the scores of all pairs, B x H x T x T."""
    # The keys' positions are S here, to tell them from the queries'.
    k_BSHN, k_BSR, v_BSHU = k_BTHN, k_BTR, v_BTHU
    score_BHTS = jnp.einsum("BTHN,BSHN->BHTS", q_BTHN, k_BSHN, preferred_element_type=jnp.float32)
    score_BHTS += jnp.einsum("BTHR,BSR->BHTS", q_BTHR, k_BSR, preferred_element_type=jnp.float32)
    sees_BTS = _sees(q_BTHN.shape[1], segment_BT)
    weight_BHTS = jax.nn.softmax(
        jnp.where(sees_BTS[:, None], score_BHTS * scale, -jnp.inf), axis=-1
    )
    return jnp.einsum("BHTS,BSHU->BTHU", weight_BHTS.astype(v_BTHU.dtype), v_BSHU)


def attend_dot(q_BTHN, q_BTHR, k_BTHN, k_BTR, v_BTHU, scale, segment_BT=None):
    """`jax.nn.dot_product_attention`, which wants values as wide as keys: pad them, cut the
    result."""
    q_BTHA, k_BTHA = _join(q_BTHN, q_BTHR, k_BTHN, k_BTR)
    mask_B1TS = None if segment_BT is None else _sees(q_BTHN.shape[1], segment_BT)[:, None]
    width = max(q_BTHA.shape[-1], v_BTHU.shape[-1])
    q_BTHA, k_BTHA, v_BTHA = (_widen(a, width) for a in (q_BTHA, k_BTHA, v_BTHU))
    o_BTHA = jax.nn.dot_product_attention(
        q_BTHA, k_BTHA, v_BTHA, mask=mask_B1TS, scale=scale, is_causal=True
    )
    return o_BTHA[..., : v_BTHU.shape[-1]]


def attend_splash(q_BTHN, q_BTHR, k_BTHN, k_BTR, v_BTHU, scale, segment_BT=None):
    """TPU: the Pallas splash kernel, widths padded to whole lanes of 128 and positions to whole
    tiles (a padded key stands after every query)."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    T, H, U = v_BTHU.shape[1:]
    q_BTHA, k_BTHA = _join(
        q_BTHN * jnp.asarray(scale, q_BTHN.dtype),
        q_BTHR * jnp.asarray(scale, q_BTHR.dtype),
        k_BTHN,
        k_BTR,
    )
    padded = -(-T // 128) * 128
    q_BHTA, k_BHTA, v_BHTU = (
        _lengthen(_widen(a, -(-a.shape[-1] // 128) * 128), padded).swapaxes(1, 2)
        for a in (q_BTHA, k_BTHA, v_BTHU)
    )
    block = next(size for size in (512, 256, 128) if padded % size == 0)
    sizes = kernel.BlockSizes(
        **dict.fromkeys(_SPLASH_BLOCKS, block)
    )  # the fused backward kernel holds T / block copies of dq: 369 MiB, not 129
    mask = masks.MultiHeadMask([masks.CausalMask((padded, padded))] * H)
    attend = kernel.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1)
    segments = None
    if segment_BT is not None:
        segment_BT = _lengthen(segment_BT, padded)
        segments = kernel.SegmentIds(q=segment_BT, kv=segment_BT)
    o_BHTU = jax.vmap(attend)(q_BHTA, k_BHTA, v_BHTU, segments)
    return o_BHTU.swapaxes(1, 2)[:, :T, :, :U].astype(v_BTHU.dtype)


_SPLASH_BLOCKS = (
    "block_q",
    "block_kv",
    "block_kv_compute",
    "block_q_dkv",
    "block_kv_dkv",
    "block_kv_dkv_compute",
    "block_q_dq",
    "block_kv_dq",
)


def attend_block(q_BTHN, q_BTHR, k_BTHN, k_BTR, v_BTHU, scale, segment_BT=None):
    """Tiles on and below the diagonal, one sequence at a time, with a running softmax
    (arXiv:2205.14135); the backward pass computes scores again.

    Memory beyond the inputs is one tile's scores; the loop keeps program and compile time
    independent of T.
    """
    T = v_BTHU.shape[1]
    q_BTHA, k_BTHA = _join(q_BTHN, q_BTHR, k_BTHN, k_BTR)
    padded = -(-T // TILE) * TILE
    q_BHTA, k_BHTA, v_BHTU = (_lengthen(a, padded).swapaxes(1, 2) for a in (q_BTHA, k_BTHA, v_BTHU))
    if segment_BT is None:
        o_BHTU = _block(*vary(q_BHTA, k_BHTA, v_BHTU), None, scale)
    else:
        o_BHTU = _block(*vary(q_BHTA, k_BHTA, v_BHTU, _lengthen(segment_BT, padded)), scale)
    return o_BHTU.swapaxes(1, 2)[:, :T]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _block(q_BHTA, k_BHTA, v_BHTU, segment_BT, scale):
    return _block_forward(q_BHTA, k_BHTA, v_BHTU, segment_BT, scale)[0]


def _block_forward(q_BHTA, k_BHTA, v_BHTU, segment_BT, scale):
    def sequence(arrays):
        q_HTA, k_HTA, v_HTU, segment_T = arrays

        def tile(carry, pair):
            query, key = pair
            o_HTU, max_HT1, total_HT1 = carry
            score_Hts = _scores(q_HTA, k_HTA, segment_T, query, key, scale)
            old_Ht1 = _at(max_HT1, query)
            max_Ht1 = jnp.maximum(old_Ht1, score_Hts.max(axis=-1, keepdims=True))
            shrink_Ht1 = jnp.exp(old_Ht1 - max_Ht1)
            weight_Hts = jnp.exp(score_Hts - max_Ht1)
            total_Ht1 = _at(total_HT1, query) * shrink_Ht1 + weight_Hts.sum(axis=-1, keepdims=True)
            o_HtU = _at(o_HTU, query) * shrink_Ht1 + _dot(
                "Hts,HsU->HtU", weight_Hts.astype(v_HTU.dtype), _at(v_HTU, key)
            )
            return (
                _put(o_HTU, o_HtU, query),
                _put(max_HT1, max_Ht1, query),
                _put(total_HT1, total_Ht1, query),
            ), None

        zero_HT1 = jnp.zeros((*q_HTA.shape[:2], 1), jnp.float32)
        carry = vary_like((jnp.zeros(v_HTU.shape, jnp.float32), zero_HT1 + MASKED, zero_HT1), q_HTA)
        (o_HTU, max_HT1, total_HT1), _ = lax.scan(tile, carry, _pairs(q_HTA.shape[1]))
        return (o_HTU / total_HT1).astype(v_HTU.dtype), max_HT1 + jnp.log(total_HT1)

    o_BHTU, log_total_BHT1 = (
        checkpoint_name(a, "product")
        for a in lax.map(sequence, (q_BHTA, k_BHTA, v_BHTU, segment_BT))
    )
    return o_BHTU, (q_BHTA, k_BHTA, v_BHTU, segment_BT, o_BHTU, log_total_BHT1)


def _block_backward(scale, saved, do_BHTU):
    def sequence(arrays):
        q_HTA, k_HTA, v_HTU, segment_T, o_HTU, log_total_HT1, do_HTU = arrays
        mean_HT1 = (o_HTU.astype(jnp.float32) * do_HTU).sum(axis=-1, keepdims=True)

        def tile(carry, pair):
            query, key = pair
            dq_HTA, dk_HTA, dv_HTU = carry
            do_HtU, k_HsA = _at(do_HTU, query), _at(k_HTA, key)
            weight_Hts = jnp.exp(
                _scores(q_HTA, k_HTA, segment_T, query, key, scale) - _at(log_total_HT1, query)
            )
            dweight_Hts = _dot("HtU,HsU->Hts", do_HtU, _at(v_HTU, key))
            dscore_Hts = (weight_Hts * (dweight_Hts - _at(mean_HT1, query)) * scale).astype(
                q_HTA.dtype
            )
            dq_HtA = _at(dq_HTA, query) + _dot("Hts,HsA->HtA", dscore_Hts, k_HsA)
            dk_HsA = _at(dk_HTA, key) + _dot("Hts,HtA->HsA", dscore_Hts, _at(q_HTA, query))
            dv_HsU = _at(dv_HTU, key) + _dot(
                "Hts,HtU->HsU", weight_Hts.astype(do_HTU.dtype), do_HtU
            )
            return (
                _put(dq_HTA, dq_HtA, query),
                _put(dk_HTA, dk_HsA, key),
                _put(dv_HTU, dv_HsU, key),
            ), None

        inputs = (q_HTA, k_HTA, v_HTU)
        carry = vary_like(tuple(jnp.zeros(a.shape, jnp.float32) for a in inputs), q_HTA)
        gradients, _ = lax.scan(tile, carry, _pairs(q_HTA.shape[1]))
        return tuple(da.astype(a.dtype) for da, a in zip(gradients, inputs))

    return *lax.map(sequence, (*saved, do_BHTU)), None


_block.defvjp(_block_forward, _block_backward)


def _scores(q_HTA, k_HTA, segment_T, query, key, scale):
    """The masked scores of one tile, in fp32."""
    score_Hts = _dot("HtA,HsA->Hts", _at(q_HTA, query), _at(k_HTA, key)) * scale
    place_t = jnp.arange(TILE)
    sees_ts = (query * TILE + place_t)[:, None] >= key * TILE + place_t
    if segment_T is not None:
        segment_t, segment_s = (
            lax.dynamic_slice_in_dim(segment_T, index * TILE, TILE) for index in (query, key)
        )
        sees_ts &= segment_t[:, None] == segment_s
    return jnp.where(sees_ts, score_Hts, MASKED)


def _pairs(T):
    """All (query tile, key tile) on and below the diagonal, the diagonal last in its row."""
    return jnp.asarray(np.stack(np.tril_indices(T // TILE), axis=1), jnp.int32)


def _at(a_HTX, tile):
    return lax.dynamic_slice_in_dim(a_HTX, tile * TILE, TILE, 1)


def _put(a_HTX, a_HtX, tile):
    return lax.dynamic_update_slice_in_dim(a_HTX, a_HtX, tile * TILE, 1)


def _dot(equation, a, b):
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _join(q_BTHN, q_BTHR, k_BTHN, k_BTR):
    """Queries and keys with both parts side by side, so that one matmul gives the whole score."""
    k_BTHR = jnp.broadcast_to(k_BTR[:, :, None], (*k_BTHN.shape[:3], k_BTR.shape[-1]))
    return jnp.concatenate([q_BTHN, q_BTHR], axis=-1), jnp.concatenate([k_BTHN, k_BTHR], axis=-1)


def _sees(T, segment_BT):
    """Which query sees which key: [1 or B, T, S]."""
    sees_1TS = jnp.tril(jnp.ones((1, T, T), bool))
    return (
        sees_1TS
        if segment_BT is None
        else sees_1TS & (segment_BT[:, :, None] == segment_BT[:, None])
    )


def _widen(a_BTHX, width):
    return jnp.pad(a_BTHX, ((0, 0), (0, 0), (0, 0), (0, width - a_BTHX.shape[-1])))


def _lengthen(a_BT, length):
    """`a_BT` (any further axes) with zeros after its last position."""
    return jnp.pad(a_BT, ((0, 0), (0, length - a_BT.shape[1]), *((0, 0),) * (a_BT.ndim - 2)))
