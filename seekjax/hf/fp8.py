"""Matrices in FP8 (E4M3), one float32 scale for each block of 128 x 128; the blocks at the far edges may be smaller.

A published `weight_scale_inv` is, despite its name, the multiplier: w = fp8 * scale. Plain NumPy in and out.
"""

import jax.numpy as jnp
import numpy as np

BLOCK = 128
LARGEST = 448.0  # of E4M3
FLOOR = 1e-4  # the largest value a block is taken to have at least, as in DeepSeek's own quantiser
E4M3 = np.dtype(jnp.float8_e4m3fn)
VALUES = np.arange(256, dtype=np.uint8).view(E4M3).astype(np.float32)  # of each byte: a table is faster than a cast


def blocks(shape: tuple[int, int]) -> tuple[int, int]:
    """How many blocks a matrix has, down and across."""
    return -(-shape[0] // BLOCK), -(-shape[1] // BLOCK)


def dequantise(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 [rows, columns] out of E4M3 and the scales of its blocks."""
    w = VALUES[x.view(np.uint8)]
    for i, row in enumerate(scale.astype(np.float32)):  # a band of blocks at a time: nothing of the matrix's size beside the result
        w[i * BLOCK:(i + 1) * BLOCK] *= np.repeat(row, BLOCK)[:x.shape[1]]
    return w


def quantise(w: np.ndarray, ue8m0: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """E4M3 and float32 scales: the largest value of a block over 448, with `ue8m0` rounded up to a power of two.

    What was once `dequantise`d from blocks that use the whole range comes back to the bit: where the division lands beside the scale it had,
    by the rounding of float32, the neighbour that restores every value of the block is taken.
    """
    tiles = _tiles(w.astype(np.float32))
    scale = np.maximum(np.abs(tiles).max((1, 3)), np.float32(FLOOR)) / np.float32(LARGEST)
    if ue8m0:
        fraction, exponent = np.frexp(scale)
        scale = np.ldexp(np.float32(1), exponent - (fraction == 0.5)).astype(np.float32)
    best, pending = scale, ~_restores(tiles, scale)
    for neighbour in () if ue8m0 else (np.nextafter(scale, np.float32(np.inf)), np.nextafter(scale, np.float32(0))):
        better = pending & _restores(tiles, neighbour)
        best, pending = np.where(better, neighbour, best), pending & ~better
    x = _cast(tiles, best).reshape(-1, tiles.shape[2] * BLOCK)[:w.shape[0], :w.shape[1]]
    return np.ascontiguousarray(x), best


def _tiles(w: np.ndarray) -> np.ndarray:
    """[blocks down, 128, blocks across, 128], zeros beyond the edges."""
    down, across = blocks(w.shape)
    padded = np.zeros((down * BLOCK, across * BLOCK), w.dtype)
    padded[:w.shape[0], :w.shape[1]] = w
    return padded.reshape(down, BLOCK, across, BLOCK)


def _cast(tiles: np.ndarray, scale: np.ndarray) -> np.ndarray:
    scaled = tiles / scale[:, None, :, None]
    return np.clip(scaled, -LARGEST, LARGEST).astype(E4M3)  # beyond its range E4M3 has no infinity, only NaN


def _restores(tiles: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Of which blocks the scale gives back every value exactly."""
    return (VALUES[_cast(tiles, scale).view(np.uint8)] * scale[:, None, :, None] == tiles).all((1, 3))
