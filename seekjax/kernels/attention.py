"""Causal attention of MLA in training: softmax((q_N k_N + q_R k_R) scale) v, the rotary key shared
by all heads (arXiv:2405.04434, section 2.1.3).

Every form `attend_X` takes
(q_BTHN, q_BTHR, k_BSHN, k_BSR, v_BSHU, scale, segment_BS=None, position_T=None), returns o_BTHU, is
causal, its softmax in fp32. With segment_BS (int32; packed documents) a token sees only earlier
tokens of its own segment. position_T (int32) has the position of each query among the keys, on a
device that has only some of a sequence's queries; without it T is S and query t has position t. A
below is the joined width N + R.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

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
    k_BSHN: jax.Array,
    k_BSR: jax.Array,
    v_BSHU: jax.Array,
    scale: float,
    segment_BS: jax.Array | None = None,
    position_T: jax.Array | None = None,
) -> jax.Array:
    """Attend with the scores of all pairs at once, B x H x T x S: the plain form."""
    score_BHTS = jnp.einsum("BTHN,BSHN->BHTS", q_BTHN, k_BSHN, preferred_element_type=jnp.float32)
    score_BHTS += jnp.einsum("BTHR,BSR->BHTS", q_BTHR, k_BSR, preferred_element_type=jnp.float32)

    sees_BTS = _sees(k_BSHN.shape[1], segment_BS, position_T)
    masked_BHTS = jnp.where(sees_BTS[:, None], score_BHTS * scale, -jnp.inf)
    weight_BHTS = jax.nn.softmax(masked_BHTS, axis=-1)
    return jnp.einsum("BHTS,BSHU->BTHU", weight_BHTS.astype(v_BSHU.dtype), v_BSHU)


def attend_dot(
    q_BTHN: jax.Array,
    q_BTHR: jax.Array,
    k_BSHN: jax.Array,
    k_BSR: jax.Array,
    v_BSHU: jax.Array,
    scale: float,
    segment_BS: jax.Array | None = None,
    position_T: jax.Array | None = None,
) -> jax.Array:
    """Attend by `jax.nn.dot_product_attention`.

    It requires values as wide as keys, so the narrower are padded and the result is cut.
    """
    q_BTHA, k_BSHA = _join(q_BTHN, q_BTHR, k_BSHN, k_BSR)
    in_order = position_T is None
    mask_B1TS = None
    if segment_BS is not None or not in_order:
        mask_B1TS = _sees(k_BSHN.shape[1], segment_BS, position_T)[:, None]

    width = max(q_BTHA.shape[-1], v_BSHU.shape[-1])
    q_BTHA, k_BSHA, v_BSHA = (_widen(a_BXHY, width) for a_BXHY in (q_BTHA, k_BSHA, v_BSHU))
    o_BTHA = jax.nn.dot_product_attention(
        q_BTHA, k_BSHA, v_BSHA, mask=mask_B1TS, scale=scale, is_causal=in_order
    )
    return o_BTHA[..., : v_BSHU.shape[-1]]


def attend_splash(
    q_BTHN: jax.Array,
    q_BTHR: jax.Array,
    k_BSHN: jax.Array,
    k_BSR: jax.Array,
    v_BSHU: jax.Array,
    scale: float,
    segment_BS: jax.Array | None = None,
    position_T: jax.Array | None = None,
) -> jax.Array:
    """Attend by the Pallas splash kernel of a TPU.

    Widths are padded to whole lanes and positions to whole tiles; a padded key comes after every
    query. Raises ValueError for queries with positions of their own.
    """
    if position_T is not None:
        raise ValueError("attend_splash has no positions of queries: use attend_block.")

    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    # The kernel does not scale the scores. In bf16 the scale itself would be off by up to 0.4 %,
    # for all scores; the product, rounded once, is off by half a step of each query's own.
    T, H, U = v_BSHU.shape[1:]
    q_BTHA, k_BSHA = _join(q_BTHN, q_BTHR, k_BSHN, k_BSR)
    q_BTHA = (q_BTHA.astype(jnp.float32) * scale).astype(q_BTHA.dtype)

    length = _round_up(T, LANES)

    def padded(a_BTHX: jax.Array) -> jax.Array:
        wide_BTHX = _widen(a_BTHX, _round_up(a_BTHX.shape[-1], LANES))
        return _lengthen(wide_BTHX, length).swapaxes(1, 2)

    q_BHTA, k_BHSA, v_BHSU = padded(q_BTHA), padded(k_BSHA), padded(v_BSHU)
    segments = None
    if segment_BS is not None:
        segment_BS = _lengthen(segment_BS, length)
        segments = kernel.SegmentIds(q=segment_BS, kv=segment_BS)

    # Not the fused backward kernel: it holds T / block copies of dq, 369 MiB instead of 129.
    block = next(size for size in (512, 256, 128) if length % size == 0)
    sizes = kernel.BlockSizes(**dict.fromkeys(SPLASH_BLOCKS, block))
    mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * H)
    attend: Any = kernel.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1)

    o_BHTU = jax.vmap(attend)(q_BHTA, k_BHSA, v_BHSU, segments)
    return o_BHTU.swapaxes(1, 2)[:, :T, :, :U].astype(v_BSHU.dtype)


def attend_block(
    q_BTHN: jax.Array,
    q_BTHR: jax.Array,
    k_BSHN: jax.Array,
    k_BSR: jax.Array,
    v_BSHU: jax.Array,
    scale: float,
    segment_BS: jax.Array | None = None,
    position_T: jax.Array | None = None,
) -> jax.Array:
    """Attend in tiles on and below the diagonal, one sequence at a time, with a running softmax
    (arXiv:2205.14135); the backward pass computes the scores again.

    Memory beyond the inputs is one tile's scores; the loops keep program and compile time
    independent of T and S. A row of tiles ends with the last one that its queries see, so a device
    computes only what its own queries need.
    """
    T, S = q_BTHN.shape[1], v_BSHU.shape[1]
    queries, keys = _round_up(T, TILE), _round_up(S, TILE)
    if position_T is None:
        position_T = jnp.arange(T, dtype=jnp.int32)
    seen = Seen(_lengthen(position_T[None], queries)[0])
    if segment_BS is not None:
        own_BT = jnp.take(segment_BS, position_T, axis=1)
        seen = seen._replace(query=_lengthen(own_BT, queries), key=_lengthen(segment_BS, keys))

    q_BTHA, k_BSHA = _join(q_BTHN, q_BTHR, k_BSHN, k_BSR)
    q_BHTA = _lengthen(q_BTHA, queries).swapaxes(1, 2)
    k_BHSA, v_BHSU = (_lengthen(a_BSHX, keys).swapaxes(1, 2) for a_BSHX in (k_BSHA, v_BSHU))
    o_BHTU = _block(*vary(q_BHTA, k_BHSA, v_BHSU, seen), scale)
    return o_BHTU.swapaxes(1, 2)[:, :T]


def tiles_computed(position_T: np.ndarray) -> int:
    """Return how many tiles of scores `attend_block` computes for queries at these positions."""
    padded_T = np.pad(position_T, (0, -len(position_T) % TILE))
    return int(_last_tiles(padded_T).sum()) + len(padded_T) // TILE


class Seen(NamedTuple):
    """What the tiled form's mask is made of: positions of queries, and segments if there are."""

    position: jax.Array  # [T]
    query: jax.Array | None = None  # segments of the queries, [B, T]
    key: jax.Array | None = None  # segments of the keys, [B, S]


def _block_value(
    q_BHTA: jax.Array,
    k_BHSA: jax.Array,
    v_BHSU: jax.Array,
    seen: Seen,
    scale: float,
) -> jax.Array:
    o_BHTU, _ = _block_forward(q_BHTA, k_BHSA, v_BHSU, seen, scale)
    return o_BHTU


def _block_forward(q_BHTA, k_BHSA, v_BHSU, seen, scale):
    """Return o_BHTU, and what the backward pass needs: the inputs, the output, and each row's log
    of the sum of exponentials.
    """
    last_n = _last_tiles(seen.position)

    def sequence(arrays):
        q_HTA, k_HSA, v_HSU, own_T, segment_S = arrays
        mask = Seen(seen.position, own_T, segment_S)

        def row(query):
            """Attend from one tile of queries to all tiles of keys that it sees."""
            q_HtA = _read(q_HTA, query)

            def tile(key, carry):
                o_HtU, max_Ht1, total_Ht1 = carry

                # The new maximum of each row, and the factor that rescales its earlier sums.
                score_Hts = _scores(q_HtA, k_HSA, mask, query, key, scale)
                new_Ht1 = jnp.maximum(max_Ht1, score_Hts.max(axis=-1, keepdims=True))
                shrink_Ht1 = jnp.exp(max_Ht1 - new_Ht1)

                # The sums of the weights and of the weighted values.
                weight_Hts = jnp.exp(score_Hts - new_Ht1)
                total_Ht1 = total_Ht1 * shrink_Ht1 + weight_Hts.sum(axis=-1, keepdims=True)
                v_HsU = _read(v_HSU, key)
                o_HtU = o_HtU * shrink_Ht1 + _dot(
                    "Hts,HsU->HtU", weight_Hts.astype(v_HSU.dtype), v_HsU
                )
                return o_HtU, new_Ht1, total_Ht1

            zero_HtU = jnp.zeros((*q_HtA.shape[:2], v_HSU.shape[-1]), jnp.float32)
            zero_Ht1 = zero_HtU[..., :1]
            start = vary_like((zero_HtU, zero_Ht1 + MASKED, zero_Ht1), q_HTA)
            o_HtU, max_Ht1, total_Ht1 = lax.fori_loop(0, last_n[query] + 1, tile, start)
            return (o_HtU / total_Ht1).astype(v_HSU.dtype), max_Ht1 + jnp.log(total_Ht1)

        o_nHtU, log_total_nHt1 = lax.map(row, jnp.arange(len(last_n)))
        return _joined(o_nHtU), _joined(log_total_nHt1)

    arrays = (q_BHTA, k_BHSA, v_BHSU, seen.query, seen.key)
    o_BHTU, log_total_BHT1 = lax.map(sequence, arrays)
    o_BHTU = checkpoint_name(o_BHTU, "product")
    log_total_BHT1 = checkpoint_name(log_total_BHT1, "product")
    return o_BHTU, (q_BHTA, k_BHSA, v_BHSU, seen, o_BHTU, log_total_BHT1)


def _block_backward(scale, saved, do_BHTU):
    q_BHTA, k_BHSA, v_BHSU, seen, o_BHTU, log_total_BHT1 = saved
    last_n = _last_tiles(seen.position)

    def sequence(arrays):
        q_HTA, k_HSA, v_HSU, own_T, segment_S, o_HTU, log_total_HT1, do_HTU = arrays
        mask = Seen(seen.position, own_T, segment_S)
        mean_HT1 = (o_HTU.astype(jnp.float32) * do_HTU).sum(axis=-1, keepdims=True)

        def row(carry, query):
            q_HtA, do_HtU = _read(q_HTA, query), _read(do_HTU, query)
            log_total_Ht1, mean_Ht1 = _read(log_total_HT1, query), _read(mean_HT1, query)

            def tile(key, carry):
                dq_HtA, dk_HSA, dv_HSU = carry
                k_HsA, v_HsU = _read(k_HSA, key), _read(v_HSU, key)

                # The weights again, and the gradient of the scores through the softmax.
                score_Hts = _scores(q_HtA, k_HSA, mask, query, key, scale)
                weight_Hts = jnp.exp(score_Hts - log_total_Ht1)
                dweight_Hts = _dot("HtU,HsU->Hts", do_HtU, v_HsU)
                dscore_Hts = weight_Hts * (dweight_Hts - mean_Ht1) * scale

                dscore_Hts = dscore_Hts.astype(q_HTA.dtype)
                weight_Hts = weight_Hts.astype(do_HTU.dtype)
                dq_HtA += _dot("Hts,HsA->HtA", dscore_Hts, k_HsA)
                dk_HsA = _read(dk_HSA, key) + _dot("Hts,HtA->HsA", dscore_Hts, q_HtA)
                dv_HsU = _read(dv_HSU, key) + _dot("Hts,HtU->HsU", weight_Hts, do_HtU)
                return dq_HtA, _write(dk_HSA, dk_HsA, key), _write(dv_HSU, dv_HsU, key)

            start = (vary_like(jnp.zeros(q_HtA.shape, jnp.float32), q_HTA), *carry)
            dq_HtA, *carry = lax.fori_loop(0, last_n[query] + 1, tile, start)
            return tuple(carry), dq_HtA

        zeros = tuple(jnp.zeros(a.shape, jnp.float32) for a in (k_HSA, v_HSU))
        start = vary_like(zeros, q_HTA)
        (dk_HSA, dv_HSU), dq_nHtA = lax.scan(row, start, jnp.arange(len(last_n)))
        gradients = (_joined(dq_nHtA), dk_HSA, dv_HSU)
        return tuple(da.astype(a.dtype) for da, a in zip(gradients, (q_HTA, k_HSA, v_HSU)))

    arrays = (q_BHTA, k_BHSA, v_BHSU, seen.query, seen.key, o_BHTU, log_total_BHT1, do_BHTU)
    return *lax.map(sequence, arrays), None


_block = jax.custom_vjp(_block_value, nondiff_argnums=(4,))
_block.defvjp(_block_forward, _block_backward)


def _scores(
    q_HtA: jax.Array,
    k_HSA: jax.Array,
    mask: Seen,
    query: jax.Array,
    key: jax.Array,
    scale: float,
) -> jax.Array:
    """Return the masked scores of one tile, in fp32; the segments are those of one sequence."""
    score_Hts = _dot("HtA,HsA->Hts", q_HtA, _read(k_HSA, key)) * scale

    position_t = lax.dynamic_slice_in_dim(mask.position, query * TILE, TILE)
    sees_ts = position_t[:, None] >= key * TILE + jnp.arange(TILE)
    if mask.query is not None and mask.key is not None:
        own_t = lax.dynamic_slice_in_dim(mask.query, query * TILE, TILE)
        segment_s = lax.dynamic_slice_in_dim(mask.key, key * TILE, TILE)
        sees_ts &= own_t[:, None] == segment_s
    return jnp.where(sees_ts, score_Hts, MASKED)


def _last_tiles(position_T: Any) -> Any:
    """Return the last tile of keys that each tile of queries sees."""
    return position_T.reshape(-1, TILE).max(axis=1) // TILE


def _joined(a_nHtX: jax.Array) -> jax.Array:
    """Return tiles of queries one after the other, [H, T, X]."""
    a_HntX = a_nHtX.swapaxes(0, 1)
    return a_HntX.reshape(a_HntX.shape[0], -1, a_HntX.shape[-1])


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
    k_BSHN: jax.Array,
    k_BSR: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return queries and keys with both parts next to each other, so that one matmul gives the
    whole score.
    """
    k_BSHR = jnp.broadcast_to(k_BSR[:, :, None], (*k_BSHN.shape[:3], k_BSR.shape[-1]))
    return jnp.concatenate([q_BTHN, q_BTHR], axis=-1), jnp.concatenate([k_BSHN, k_BSHR], axis=-1)


def _sees(S: int, segment_BS: jax.Array | None, position_T: jax.Array | None) -> jax.Array:
    """Return which query sees which key: [1 or B, T, S]."""
    if position_T is None:
        position_T = jnp.arange(S)
    sees_1TS = (position_T[:, None] >= jnp.arange(S))[None]
    if segment_BS is None:
        return sees_1TS
    own_BT = jnp.take(segment_BS, position_T, axis=1)
    return sees_1TS & (own_BT[:, :, None] == segment_BS[:, None])


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _widen(a_BTHX: jax.Array, width: int) -> jax.Array:
    return jnp.pad(a_BTHX, ((0, 0), (0, 0), (0, 0), (0, width - a_BTHX.shape[-1])))


def _lengthen(a_BT: jax.Array, length: int) -> jax.Array:
    """Return `a_BT` (with any further axes) with zeros after its last position."""
    padding = [(0, 0), (0, length - a_BT.shape[1])] + [(0, 0)] * (a_BT.ndim - 2)
    return jnp.pad(a_BT, padding)
