"""Rows in FP8 on their way to experts: E4M3 in tiles of 1 x 128 whose scales are powers of two (V3
section 3.3.3).

A row of width D takes D bytes and a float32 for each tile: 7,392 bytes at 7,168, next to 14,336 in
bfloat16. Rounding a second time changes nothing, because a value times a power of two is exact: the
hops of an exchange may each pack what they send.
"""

from jax import Array
from jax.typing import DTypeLike

from seekjax.quant.tiles import ROW, Tiled, in_tiles
from sharding.exchange.wire import Packed, Wire


def pack(x_MD: Array) -> Packed:
    """Return values and scales."""
    tiled = in_tiles(x_MD, ROW, "ue8m0")
    return tiled.values, tiled.scale


def unpack(packed: Packed, dtype: DTypeLike) -> Array:
    """Return the rows that `pack` has rounded."""
    values, scale = packed
    return Tiled(values, scale, ROW).dense().astype(dtype)


FP8 = Wire(pack, unpack)
