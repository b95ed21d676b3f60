"""Matrices in FP8 (E4M3), one float32 scale for each block of 128 x 128; the blocks at the far
edges may be smaller.

A published `weight_scale_inv` is, despite its name, the multiplier: w = fp8 * scale. Plain NumPy in
and out.
"""

import jax.numpy as jnp
import numpy as np

BLOCK = 128
LARGEST = 448.0  # of E4M3
FLOOR = 1e-4  # the largest value a block is taken to have at least, as in DeepSeek's own quantiser
E4M3 = np.dtype(jnp.float8_e4m3fn)
VALUES = (
    np.arange(256, dtype=np.uint8).view(E4M3).astype(np.float32)
)  # of each byte: a table is faster than a cast


def blocks(shape: tuple[int, int]) -> tuple[int, int]:
    """How many blocks a matrix has, down and across."""
    return -(-shape[0] // BLOCK), -(-shape[1] // BLOCK)


def dequantise(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 [rows, columns] out of E4M3 and the scales of its blocks."""
    w = VALUES[x.view(np.uint8)]
    for i, row in enumerate(
        scale.astype(np.float32)
    ):  # a band of blocks at a time: nothing of the matrix's size beside the result
        w[i * BLOCK : (i + 1) * BLOCK] *= np.repeat(row, BLOCK)[: x.shape[1]]
    return w


def quantise(
    w: np.ndarray, ue8m0: bool = False, known: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """E4M3 and float32 scales: the largest value of a block over 448, with `ue8m0` rounded up to a
    power of two.

    `known` are scales that the matrix once had: a block keeps its own where that still gives back
    every value. The values alone cannot tell it, for 448 times a scale is 224 times its double.
    """
    tiles = _tiles(w.astype(np.float32))
    scale = np.maximum(np.abs(tiles).max((1, 3)), np.float32(FLOOR)) / np.float32(LARGEST)
    if ue8m0:
        fraction, exponent = np.frexp(scale)
        scale = np.ldexp(np.float32(1), exponent - (fraction == 0.5)).astype(np.float32)
    if known is not None:
        kept = (VALUES[_cast(tiles, known).view(np.uint8)] * known[:, None, :, None] == tiles).all(
            (1, 3)
        )
        scale = np.where(kept, known, scale)
    x = _cast(tiles, scale).reshape(-1, tiles.shape[2] * BLOCK)[: w.shape[0], : w.shape[1]]
    return np.ascontiguousarray(x), scale


def _tiles(w: np.ndarray) -> np.ndarray:
    """[blocks down, 128, blocks across, 128], zeros beyond the edges."""
    down, across = blocks(w.shape)
    padded = np.zeros((down * BLOCK, across * BLOCK), w.dtype)
    padded[: w.shape[0], : w.shape[1]] = w
    return padded.reshape(down, BLOCK, across, BLOCK)


def _cast(tiles: np.ndarray, scale: np.ndarray) -> np.ndarray:
    scaled = tiles / scale[:, None, :, None]
    return np.clip(scaled, -LARGEST, LARGEST).astype(
        E4M3
    )  # beyond its range E4M3 has no infinity, only NaN
