"""Tables of arrays for a reader: path, shape, type, logical axes, the mesh axes that the rules give
each on the mesh in use, and bytes per device.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh

from sharding.rules import sharding, split_axes


class Row(NamedTuple):
    """One array: its name, what it is, and where it lives."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    axes: str
    # the mesh axes of more than one device that split each dimension
    split: tuple[tuple[str, ...], ...]
    bytes: int
    bytes_per_device: int

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as the table shows it; "-" is a dimension that no mesh axis splits."""
        shape = " x ".join(str(size) for size in self.shape)
        split = " ".join("+".join(names) or "-" for names in self.split)
        size = human(self.bytes_per_device)
        return self.path, shape or "scalar", self.dtype, self.axes or "-", split or "-", size

    @property
    def replicated(self) -> bool:
        """True if every device holds the whole array."""
        return not any(self.split)


def rows(tree: Any, axes: Any) -> list[Row]:
    """Return a Row for every array of an abstract (or real) tree.

    `axes` has a logical-axes string for each array. Raises RuntimeError without a mesh in use.
    """
    leaves, strings = jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(axes)
    listed = []
    for (path, x), names in zip(leaves, strings, strict=True):
        listed.append(_row(jax.tree_util.keystr(path, simple=True, separator="/"), x, names))
    return listed


def table(listed: Sequence[Row]) -> str:
    """Return one aligned line per array under a heading."""
    heading = ("array", "shape", "type", "logical axes", "split by", "per device")
    return align([heading, *(row.cells for row in listed)], left=5)


def totals(groups: dict[str, list[Row]]) -> str:
    """Return a line per group and one for all: the number of arrays, how many of them are
    replicated on every device, their bytes in all and per device, and the replicated bytes.
    """
    lines: list[tuple[str, ...]] = [
        ("", "arrays", "replicated", "in all", "per device", "replicated")
    ]
    everything: list[Row] = []
    for name, group in groups.items():
        lines.append(_total(name, group))
        everything.extend(group)
    lines.append(_total("all", everything))
    return align(lines, left=1)


def align(lines: Sequence[tuple[str, ...]], left: int) -> str:
    """Return lines of cells in columns: the first `left` columns flush left, the others flush
    right.
    """
    widths = [max(map(len, column)) for column in zip(*lines)]
    aligned = []
    for line in lines:
        cells = []
        for number, (cell, width) in enumerate(zip(line, widths)):
            cells.append(cell.ljust(width) if number < left else cell.rjust(width))
        aligned.append("  ".join(cells))
    return "\n".join(aligned)


def describe(mesh: Mesh | AbstractMesh) -> str:
    """Return a mesh in words: its number of devices, and its axes of more than one device."""
    axes = [f"{name} {size}" for name, size in mesh.shape.items() if size > 1]
    if not axes:
        return "1 device"
    return f"{math.prod(mesh.shape.values()):,} devices: {' x '.join(axes)}"


def human(size: float) -> str:
    """Return bytes in the largest unit that leaves at least 1, to three digits."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:#.3g} {unit}"


def _row(
    path: str,
    x: jax.ShapeDtypeStruct,
    axes: str,
) -> Row:
    layout = sharding(axes)
    size = x.dtype.itemsize

    # An array without logical axes is whole along each dimension.
    split = []
    for names in split_axes(axes) or [()] * len(x.shape):
        split.append(tuple(name for name in names if layout.mesh.shape[name] > 1))

    return Row(
        path,
        tuple(x.shape),
        str(x.dtype),
        axes,
        tuple(split),
        math.prod(x.shape) * size,
        math.prod(layout.shard_shape(x.shape)) * size,
    )


def _total(name: str, group: Sequence[Row]) -> tuple[str, ...]:
    """Return the cells of one group's line."""
    replicated = [row for row in group if row.replicated]
    in_all = sum(row.bytes for row in group)
    per_device = sum(row.bytes_per_device for row in group)
    replicated_bytes = sum(row.bytes for row in replicated)
    counts = (str(len(group)), str(len(replicated)))
    return name, *counts, human(in_all), human(per_device), human(replicated_bytes)
