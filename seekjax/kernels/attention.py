"""Causal attention of MLA in training: softmax((q_N k_N + q_R k_R) scale) v, the rotary key shared
by all heads (arXiv:2405.04434, section 2.1.3).

Every form is `attend_X(q_BTHN, q_BTHR, k_BTHN, k_BTR, v_BTHU, scale, segment_BT=None) -> o_BTHU`,
causal over equal positions, its softmax in fp32. With segment_BT (int32; packed documents) a token
sees only earlier tokens of its own segment. A below is the joined width N + R.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from sharding.vary import vary, vary_like

# Queries and keys of one tile of `attend_block`: small enough for one head's scores to stay in the
# cache from matmul to matmul.
TILE = 64
# The score of a pair that is masked. Finite, so that a row whose keys are all masked in one tile
# gives no NaN; the diagonal tile makes that row's sum negligible.
MASKED = -1e30

# Splash works on whole vector lanes of a TPU.
LANES = 128
SPLASH_BLOCKS = (
    "block_q",
    "block_kv",
    "block_kv_compute",
    "block_q_dkv",
    "block_kv_dkv",
    "block_kv_dkv_compute",
    "block_q_dq",
    "block_kv_dq",
)


def pick(platform: str) -> Callable[..., jax.Array]:
    """Return the fastest form on a platform ("cpu", "gpu" or "tpu")."""
    return {"cpu": attend_block, "gpu": attend_dot, "tpu": attend_splash}[platform]


def attend_plain(
    q_BTHN: jax.Array,
    q_BTHR: jax.Array,
    k_BTHN: jax.Array,
    k_BTR: jax.Array,
    v_BTHU: jax.Array,
    scale: float,
    segment_BT: jax.Array | None = None,
) -> jax.Array:
    """Attend with the scores of all pairs at once, B x H x T x T: the plain form."""
    # The keys' positions are S here, to tell them from the queries'.
    k_BSHN, k_BSR, v_BSHU = k_BTHN, k_BTR, v_BTHU
    score_BHTS = jnp.einsum("BTHN,BSHN->BHTS", q_BTHN, k_BSHN, preferred_element_type=jnp.float32)
    score_BHTS += jnp.einsum("BTHR,BSR->BHTS", q_BTHR, k_BSR, preferred_element_type=jnp.float32)

    sees_BTS = _sees(q_BTHN.shape[1], segment_BT)
    masked_BHTS = jnp.where(sees_BTS[:, None], score_BHTS * scale, -jnp.inf)
    weight_BHTS = jax.nn.softmax(masked_BHTS, axis=-1)
    return jnp.einsum("BHTS,BSHU->BTHU", weight_BHTS.astype(v_BTHU.dtype), v_BSHU)


def attend_dot(
    q_BTHN: jax.Array,
    q_BTHR: jax.Array,
    k_BTHN: jax.Array,
    k_BTR: jax.Array,
    v_BTHU: jax.Array,
    scale: float,
    segment_BT: jax.Array | None = None,
) -> jax.Array:
    """Attend by `jax.nn.dot_product_attention`.

    It requires values as wide as keys, so the narrower are padded and the result is cut.
    """
    q_BTHA, k_BTHA = _join(q_BTHN, q_BTHR, k_BTHN, k_BTR)
    mask_B1TS = None if segment_BT is None else _sees(q_BTHN.shape[1], segment_BT)[:, None]

    width = max(q_BTHA.shape[-1], v_BTHU.shape[-1])
    q_BTHA, k_BTHA, v_BTHA = (_widen(a_BTHX, width) for a_BTHX in (q_BTHA, k_BTHA, v_BTHU))
    o_BTHA = jax.nn.dot_product_attention(
        q_BTHA, k_BTHA, v_BTHA, mask=mask_B1TS, scale=scale, is_causal=True
    )
    return o_BTHA[..., : v_BTHU.shape[-1]]


def attend_splash(
    q_BTHN: jax.Array,
    q_BTHR: jax.Array,
    k_BTHN: jax.Array,
    k_BTR: jax.Array,
    v_BTHU: jax.Array,
    scale: float,
    segment_BT: jax.Array | None = None,
) -> jax.Array:
    """Attend by the Pallas splash kernel of a TPU.

    Widths are padded to whole lanes and positions to whole tiles; a padded key comes after every
    query.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    # The kernel does not scale the scores. In bf16 the scale itself would be off by up to 0.4 %,
    # for all scores; the product, rounded once, is off by half a step of each query's own.
    T, H, U = v_BTHU.shape[1:]
    q_BTHA, k_BTHA = _join(q_BTHN, q_BTHR, k_BTHN, k_BTR)
    q_BTHA = (q_BTHA.astype(jnp.float32) * scale).astype(q_BTHA.dtype)

    length = _round_up(T, LANES)

    def padded(a_BTHX: jax.Array) -> jax.Array:
        wide_BTHX = _widen(a_BTHX, _round_up(a_BTHX.shape[-1], LANES))
        return _lengthen(wide_BTHX, length).swapaxes(1, 2)

    q_BHTA, k_BHTA, v_BHTU = padded(q_BTHA), padded(k_BTHA), padded(v_BTHU)
    segments = None
    if segment_BT is not None:
        segment_BT = _lengthen(segment_BT, length)
        segments = kernel.SegmentIds(q=segment_BT, kv=segment_BT)

    # Not the fused backward kernel: it holds T / block copies of dq, 369 MiB instead of 129.
    block = next(size for size in (512, 256, 128) if length % size == 0)
    sizes = kernel.BlockSizes(**dict.fromkeys(SPLASH_BLOCKS, block))
    mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * H)
    attend: Any = kernel.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1)

    o_BHTU = jax.vmap(attend)(q_BHTA, k_BHTA, v_BHTU, segments)
    return o_BHTU.swapaxes(1, 2)[:, :T, :, :U].astype(v_BTHU.dtype)


def attend_block(
    q_BTHN: jax.Array,
    q_BTHR: jax.Array,
    k_BTHN: jax.Array,
    k_BTR: jax.Array,
    v_BTHU: jax.Array,
    scale: float,
    segment_BT: jax.Array | None = None,
) -> jax.Array:
    """Attend in tiles on and below the diagonal, one sequence at a time, with a running softmax
    (arXiv:2205.14135); the backward pass computes the scores again.

    Memory beyond the inputs is one tile's scores; the loop keeps program and compile time
    independent of T.
    """
    T = v_BTHU.shape[1]
    length = _round_up(T, TILE)
    q_BTHA, k_BTHA = _join(q_BTHN, q_BTHR, k_BTHN, k_BTR)
    q_BHTA, k_BHTA, v_BHTU = (
        _lengthen(a_BTHX, length).swapaxes(1, 2) for a_BTHX in (q_BTHA, k_BTHA, v_BTHU)
    )

    if segment_BT is None:
        o_BHTU = _block(*vary(q_BHTA, k_BHTA, v_BHTU), None, scale)
    else:
        o_BHTU = _block(*vary(q_BHTA, k_BHTA, v_BHTU, _lengthen(segment_BT, length)), scale)
    return o_BHTU.swapaxes(1, 2)[:, :T]


def _block_value(
    q_BHTA: jax.Array,
    k_BHTA: jax.Array,
    v_BHTU: jax.Array,
    segment_BT: jax.Array | None,
    scale: float,
) -> jax.Array:
    o_BHTU, _ = _block_forward(q_BHTA, k_BHTA, v_BHTU, segment_BT, scale)
    return o_BHTU


def _block_forward(q_BHTA, k_BHTA, v_BHTU, segment_BT, scale):
    """Return o_BHTU, and what the backward pass needs: the inputs, the output, and each row's log
    of the sum of exponentials.
    """

    def sequence(arrays):
        q_HTA, k_HTA, v_HTU, segment_T = arrays

        def tile(carry, pair):
            query, key = pair
            o_HTU, max_HT1, total_HT1 = carry

            # The new maximum of each row, and the factor that rescales its earlier sums.
            score_Hts = _scores(q_HTA, k_HTA, segment_T, query, key, scale)
            old_Ht1 = _read(max_HT1, query)
            max_Ht1 = jnp.maximum(old_Ht1, score_Hts.max(axis=-1, keepdims=True))
            shrink_Ht1 = jnp.exp(old_Ht1 - max_Ht1)

            # The sums of the weights and of the weighted values.
            weight_Hts = jnp.exp(score_Hts - max_Ht1)
            sum_Ht1 = weight_Hts.sum(axis=-1, keepdims=True)
            total_Ht1 = _read(total_HT1, query) * shrink_Ht1 + sum_Ht1
            v_HsU = _read(v_HTU, key)
            new_HtU = _dot("Hts,HsU->HtU", weight_Hts.astype(v_HTU.dtype), v_HsU)
            o_HtU = _read(o_HTU, query) * shrink_Ht1 + new_HtU

            o_HTU = _write(o_HTU, o_HtU, query)
            max_HT1 = _write(max_HT1, max_Ht1, query)
            total_HT1 = _write(total_HT1, total_Ht1, query)
            return (o_HTU, max_HT1, total_HT1), None

        zero_HTU = jnp.zeros(v_HTU.shape, jnp.float32)
        zero_HT1 = jnp.zeros((*q_HTA.shape[:2], 1), jnp.float32)
        start = vary_like((zero_HTU, zero_HT1 + MASKED, zero_HT1), q_HTA)
        (o_HTU, max_HT1, total_HT1), _ = lax.scan(tile, start, _tile_pairs(q_HTA.shape[1]))
        return (o_HTU / total_HT1).astype(v_HTU.dtype), max_HT1 + jnp.log(total_HT1)

    o_BHTU, log_total_BHT1 = lax.map(sequence, (q_BHTA, k_BHTA, v_BHTU, segment_BT))
    o_BHTU = checkpoint_name(o_BHTU, "product")
    log_total_BHT1 = checkpoint_name(log_total_BHT1, "product")
    return o_BHTU, (q_BHTA, k_BHTA, v_BHTU, segment_BT, o_BHTU, log_total_BHT1)


def _block_backward(scale, saved, do_BHTU):
    def sequence(arrays):
        q_HTA, k_HTA, v_HTU, segment_T, o_HTU, log_total_HT1, do_HTU = arrays
        mean_HT1 = (o_HTU.astype(jnp.float32) * do_HTU).sum(axis=-1, keepdims=True)

        def tile(carry, pair):
            query, key = pair
            dq_HTA, dk_HTA, dv_HTU = carry
            q_HtA, k_HsA, v_HsU = _read(q_HTA, query), _read(k_HTA, key), _read(v_HTU, key)
            do_HtU = _read(do_HTU, query)

            # The weights again, and the gradient of the scores through the softmax.
            score_Hts = _scores(q_HTA, k_HTA, segment_T, query, key, scale)
            weight_Hts = jnp.exp(score_Hts - _read(log_total_HT1, query))
            dweight_Hts = _dot("HtU,HsU->Hts", do_HtU, v_HsU)
            dscore_Hts = weight_Hts * (dweight_Hts - _read(mean_HT1, query)) * scale

            dscore_Hts = dscore_Hts.astype(q_HTA.dtype)
            weight_Hts = weight_Hts.astype(do_HTU.dtype)
            dq_HtA = _read(dq_HTA, query) + _dot("Hts,HsA->HtA", dscore_Hts, k_HsA)
            dk_HsA = _read(dk_HTA, key) + _dot("Hts,HtA->HsA", dscore_Hts, q_HtA)
            dv_HsU = _read(dv_HTU, key) + _dot("Hts,HtU->HsU", weight_Hts, do_HtU)

            dq_HTA = _write(dq_HTA, dq_HtA, query)
            dk_HTA = _write(dk_HTA, dk_HsA, key)
            dv_HTU = _write(dv_HTU, dv_HsU, key)
            return (dq_HTA, dk_HTA, dv_HTU), None

        inputs = (q_HTA, k_HTA, v_HTU)
        zeros = tuple(jnp.zeros(a.shape, jnp.float32) for a in inputs)
        gradients, _ = lax.scan(tile, vary_like(zeros, q_HTA), _tile_pairs(q_HTA.shape[1]))
        return tuple(da.astype(a.dtype) for da, a in zip(gradients, inputs))

    return *lax.map(sequence, (*saved, do_BHTU)), None


_block = jax.custom_vjp(_block_value, nondiff_argnums=(4,))
_block.defvjp(_block_forward, _block_backward)


def _scores(
    q_HTA: jax.Array,
    k_HTA: jax.Array,
    segment_T: jax.Array | None,
    query: jax.Array,
    key: jax.Array,
    scale: float,
) -> jax.Array:
    """Return the masked scores of one tile, in fp32."""
    score_Hts = _dot("HtA,HsA->Hts", _read(q_HTA, query), _read(k_HTA, key)) * scale

    offset_t = jnp.arange(TILE)
    sees_ts = (query * TILE + offset_t)[:, None] >= key * TILE + offset_t
    if segment_T is not None:
        segment_t = lax.dynamic_slice_in_dim(segment_T, query * TILE, TILE)
        segment_s = lax.dynamic_slice_in_dim(segment_T, key * TILE, TILE)
        sees_ts &= segment_t[:, None] == segment_s
    return jnp.where(sees_ts, score_Hts, MASKED)


def _tile_pairs(T: int) -> jax.Array:
    """Return all (query tile, key tile) on and below the diagonal, the diagonal last in its row."""
    return jnp.asarray(np.stack(np.tril_indices(T // TILE), axis=1), jnp.int32)


def _read(a_HTX: jax.Array, tile: jax.Array) -> jax.Array:
    return lax.dynamic_slice_in_dim(a_HTX, tile * TILE, TILE, 1)


def _write(
    a_HTX: jax.Array,
    a_HtX: jax.Array,
    tile: jax.Array,
) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(a_HTX, a_HtX, tile * TILE, 1)


def _dot(
    equation: str,
    a: jax.Array,
    b: jax.Array,
) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _join(
    q_BTHN: jax.Array,
    q_BTHR: jax.Array,
    k_BTHN: jax.Array,
    k_BTR: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return queries and keys with both parts next to each other, so that one matmul gives the
    whole score.
    """
    k_BTHR = jnp.broadcast_to(k_BTR[:, :, None], (*k_BTHN.shape[:3], k_BTR.shape[-1]))
    return jnp.concatenate([q_BTHN, q_BTHR], axis=-1), jnp.concatenate([k_BTHN, k_BTHR], axis=-1)


def _sees(T: int, segment_BT: jax.Array | None) -> jax.Array:
    """Return which query sees which key: [1 or B, T, S]."""
    sees_1TS = jnp.tril(jnp.ones((1, T, T), bool))
    if segment_BT is None:
        return sees_1TS
    return sees_1TS & (segment_BT[:, :, None] == segment_BT[:, None])


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _widen(a_BTHX: jax.Array, width: int) -> jax.Array:
    return jnp.pad(a_BTHX, ((0, 0), (0, 0), (0, 0), (0, width - a_BTHX.shape[-1])))


def _lengthen(a_BT: jax.Array, length: int) -> jax.Array:
    """Return `a_BT` (with any further axes) with zeros after its last position."""
    padding = [(0, 0), (0, length - a_BT.shape[1])] + [(0, 0)] * (a_BT.ndim - 2)
    return jnp.pad(a_BT, padding)
