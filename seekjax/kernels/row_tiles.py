"""Loops over tiles of rows that are sorted by expert, whose length follows the data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class RowTile(NamedTuple):
    """A tile of m rows, some of which may be another expert's."""

    start: jax.Array
    own_m1: jax.Array  # whether each row is the expert's own

    def read(self, a_MX: jax.Array) -> jax.Array:
        """Return the tile's rows of a_MX."""
        return lax.dynamic_slice_in_dim(a_MX, self.start, self.own_m1.shape[0])

    def only_own(self, a_mX: jax.Array) -> jax.Array:
        """Return the tile's rows, with zeros for those of another expert."""
        return jnp.where(self.own_m1, a_mX, 0)

    def write(self, a_MX: jax.Array, a_mX: jax.Array) -> jax.Array:
        """Return a_MX with the expert's own rows replaced."""
        rows_mX = jnp.where(self.own_m1, a_mX, self.read(a_MX))
        return lax.dynamic_update_slice_in_dim(a_MX, rows_mX, self.start, 0)


def each_tile(
    visit: Callable[[RowTile, Any], Any],
    carry: Any,
    row: jax.Array,
    end: jax.Array,
    M: int,
    sizes: tuple[int, ...],
) -> Any:
    """Fold `visit(tile, carry)` over tiles of the rows from `row` to `end`, out of M rows.

    `sizes` are those of the tiles, the largest first. Larger tiles come first, as long as more rows
    are left than a tile of the next size holds.
    """
    for m, next_size in zip(sizes, (*sizes[1:], 0)):
        row, carry = _tiles_of_one_size(visit, carry, row, end, M, min(m, M), next_size)
    return carry


def _tiles_of_one_size(
    visit: Callable[[RowTile, Any], Any],
    carry: Any,
    row: jax.Array,
    end: jax.Array,
    M: int,
    m: int,
    next_size: int,
) -> tuple[jax.Array, Any]:
    """Fold over tiles of m rows while more than `next_size` rows are left; also return the first
    row that is left.
    """

    def more_rows_left(state):
        row, _ = state
        return row + next_size < end

    def visit_tile(state):
        row, carry = state
        return row + m, visit(_tile_at(row, end, M, m), carry)

    return lax.while_loop(more_rows_left, visit_tile, (row, carry))


def _tile_at(
    row: jax.Array,
    end: jax.Array,
    M: int,
    m: int,
) -> RowTile:
    """Return the tile that begins at `row`, of which the rows before `end` are the expert's own.

    The last tile of a full buffer would extend past the end of the buffer, so it starts earlier.
    """
    start = jnp.minimum(row, M - m)
    row_m = start + jnp.arange(m)
    own_m = (row <= row_m) & (row_m < end)
    return RowTile(start, own_m[:, None])
