"""Matrices in FP8 (E4M3) with one float32 scale for each block of 128 x 128, in NumPy.

Blocks at the far edges may be smaller. A published `weight_scale_inv` is, despite its name, the
multiplier: w = fp8 * scale.
"""

import numpy as np

from seekjax.quant.fp8 import BLOCK, E4M3, power_of_two, rounded
from seekjax.quant.fp8 import scale as scale_of

# The value of each byte: looking it up is faster than casting.
VALUES = np.arange(256, dtype=np.uint8).view(E4M3).astype(np.float32)


def blocks(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the number of blocks of a matrix, down and across."""
    rows, columns = shape
    return -(-rows // BLOCK), -(-columns // BLOCK)


def dequantise(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return float32 [rows, columns] from E4M3 and the scales of its blocks."""
    w = VALUES[x.view(np.uint8)]

    # One band of blocks at a time, so that nothing else of the matrix's size is needed.
    for i, row in enumerate(scale.astype(np.float32)):
        w[i * BLOCK : (i + 1) * BLOCK] *= np.repeat(row, BLOCK)[: x.shape[1]]
    return w


def quantise(
    w: np.ndarray,
    ue8m0: bool = False,
    known: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return E4M3 and the float32 scales of its blocks: each block's largest value over 448.

    Args:
        w: The matrix.
        ue8m0: Round the scales up to a power of two.
        known: Scales that the matrix once had. A block keeps its own if that gives back every
            value; the values alone do not determine it, for 448 times a scale is 224 times its
            double.
    """
    tiles = _tiles(w.astype(np.float32))
    scale = scale_of(np.abs(tiles).max((1, 3)))
    if ue8m0:
        scale = power_of_two(scale)

    if known is not None:
        restored = VALUES[_round(tiles, known).view(np.uint8)] * known[:, None, :, None]
        exact = (restored == tiles).all((1, 3))
        scale = np.where(exact, known, scale)

    padded = _round(tiles, scale).reshape(-1, tiles.shape[2] * BLOCK)
    x = padded[: w.shape[0], : w.shape[1]]
    return np.ascontiguousarray(x), scale


def _tiles(w: np.ndarray) -> np.ndarray:
    """A matrix as [blocks down, 128, blocks across, 128], with zeros beyond the edges."""
    rows, columns = w.shape
    down, across = blocks((rows, columns))
    padded = np.zeros((down * BLOCK, across * BLOCK), w.dtype)
    padded[:rows, :columns] = w
    return padded.reshape(down, BLOCK, across, BLOCK)


def _round(tiles: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Tiles over their scales, as E4M3."""
    return rounded(tiles / scale[:, None, :, None])
