"""Arrays in tiles that share a scale, as V3 trains in FP8 (section 3.3.2 and figure 7):

    ROW      1 x 128     activations and gradients, along the sum of a product
    COLUMN   128 x 1     the same where the product sums over tokens, as for a weight's gradient
    BLOCK    128 x 128   weights

The tiles cover the last two axes of an array; axes in front of them are separate matrices. A width
that 128 does not divide ends in a narrower tile, whose largest value is that of its own entries.
"""

from typing import Literal

import jax.numpy as jnp
from flax import struct
from jax import Array

from seekjax.quant import e5m6, fp8

Tile = tuple[int, int]
Scales = Literal["float32", "ue8m0"]

ROW: Tile = (1, fp8.BLOCK)
COLUMN: Tile = (fp8.BLOCK, 1)
BLOCK: Tile = (fp8.BLOCK, fp8.BLOCK)


class Tiled(struct.PyTreeNode):
    """An array as values of few bits, and one float32 scale per tile: x = values * scale."""

    # E4M3, or E5M6 in float16, in the shape of the array
    values: Array
    # [..., tiles down, tiles across]
    scale: Array
    # entries of a tile, down and across
    tile: Tile = struct.field(pytree_node=False)

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scale.nbytes

    @property
    def T(self) -> "Tiled":
        """The array with its last two axes exchanged."""
        down, across = self.tile
        values, scale = self.values.swapaxes(-1, -2), self.scale.swapaxes(-1, -2)
        return Tiled(values, scale, (across, down))

    def dense(self) -> Array:
        """Return the array that is stored, in float32."""
        split = _split(self.values.astype(jnp.float32), self.tile)
        return _joined(split * self.scale[..., :, None, :, None], self.values.shape)

    def scale_of_each(self) -> Array:
        """Return the scale of every entry."""
        split = _split(jnp.ones(self.values.shape, jnp.float32), self.tile)
        return _joined(split * self.scale[..., :, None, :, None], self.values.shape)


def in_tiles(
    x: Array,
    tile: Tile,
    scales: Scales = "float32",
    floor: float = fp8.E4M3_FLOOR,
) -> Tiled:
    """Return x in E4M3 with scale = max(amax, floor) / 448 for each tile.

    ue8m0: the scale is rounded up to a power of two (V3.1).
    """
    split, largest = _split_with_largest(x, tile)
    scale = fp8.scale(largest, floor)
    if scales == "ue8m0":
        scale = fp8.power_of_two(scale)
    values = fp8.rounded(split / scale[..., :, None, :, None])
    return Tiled(_joined(values, x.shape), scale, tile)


def in_e5m6(x: Array, tile: Tile) -> Tiled:
    """Return x in E5M6, each tile with the least power of two that brings it into range."""
    split, largest = _split_with_largest(x, tile)
    floored = jnp.maximum(largest, fp8.E4M3_FLOOR)
    scale = fp8.power_of_two(floored / e5m6.E5M6_MAX)
    values = e5m6.rounded(split / scale[..., :, None, :, None])
    return Tiled(_joined(values, x.shape), scale, tile)


def _split_with_largest(x: Array, tile: Tile) -> tuple[Array, Array]:
    """Return x in float32 as `_split` has it, and the largest absolute value of each tile."""
    split = _split(x.astype(jnp.float32), tile)
    return split, jnp.abs(split).max((-3, -1))


def _split(x: Array, tile: Tile) -> Array:
    """Return x [..., rows, columns] as [..., tiles, rows of a tile, tiles, columns of a tile].

    Missing entries of the last tiles are zeros, which change no tile's largest value.
    """
    *front, rows, columns = x.shape
    down, across = min(tile[0], rows), min(tile[1], columns)

    missing = [(0, 0)] * len(front) + [(0, -rows % down), (0, -columns % across)]
    if any(end for _, end in missing):
        x = jnp.pad(x, missing)
    rows, columns = x.shape[-2:]
    return x.reshape(*front, rows // down, down, columns // across, across)


def _joined(split: Array, shape: tuple[int, ...]) -> Array:
    """Return the array that `_split` has cut up, without the zeros that it added."""
    *front, tiles_down, down, tiles_across, across = split.shape
    x = split.reshape(*front, tiles_down * down, tiles_across * across)
    return x[..., : shape[-2], : shape[-1]]
