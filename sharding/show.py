"""A table of arrays for a person to read: path, shape, type, logical axes, where the rules put each
on the mesh in use, bytes per device."""

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh

from sharding.rules import sharding


class Row(NamedTuple):
    """One array: its name, what it is, and where it lives."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    axes: str
    split: tuple[
        tuple[str, ...], ...
    ]  # the mesh axes of more than one device that split each dimension
    bytes: int
    bytes_per_device: int

    @property
    def cells(self) -> tuple[str, ...]:
        """What the table shows of it; "-" is a dimension no mesh axis splits."""
        spec = " ".join("+".join(names) or "-" for names in self.split)
        return (
            self.path,
            " x ".join(map(str, self.shape)) or "scalar",
            self.dtype,
            self.axes or "-",
            spec or "-",
        )

    @property
    def replicated(self) -> bool:
        """Every device holds all of it."""
        return not any(self.split)


def rows(tree: Any, axes: Any) -> list[Row]:
    """A Row for every array of an abstract (or real) tree; `axes` has a logical-axes string for
    each. Needs a mesh in use."""
    leaves, strings = jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(axes)
    return [
        _row(jax.tree_util.keystr(path, simple=True, separator="/"), x, names)
        for (path, x), names in zip(leaves, strings, strict=True)
    ]


def _row(path: str, x: jax.ShapeDtypeStruct, axes: str) -> Row:
    place = sharding(axes)
    wanted = [
        names if isinstance(names, tuple) else (names,) if names else () for names in place.spec
    ] or [()] * len(x.shape)
    split = tuple(tuple(name for name in names if place.mesh.shape[name] > 1) for names in wanted)
    size = x.dtype.itemsize
    return Row(
        path,
        tuple(x.shape),
        str(x.dtype),
        axes,
        split,
        math.prod(x.shape) * size,
        math.prod(place.shard_shape(x.shape)) * size,
    )


def table(listed: list[Row]) -> str:
    """One aligned line per array under a heading."""
    lines = [
        ("array", "shape", "type", "logical axes", "split by", "per device"),
        *((*row.cells, human(row.bytes_per_device)) for row in listed),
    ]
    width = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            [*(cell.ljust(w) for cell, w in zip(line[:-1], width)), line[-1].rjust(width[-1])]
        )
        for line in lines
    )


def totals(groups: dict[str, list[Row]]) -> str:
    """Per group and over all: how many arrays, how many of them every device holds whole, bytes in
    all and per device."""
    everything = {**groups, "all": [row for group in groups.values() for row in group]}
    lines = [("", "arrays", "replicated", "in all", "per device", "replicated")]
    for name, group in everything.items():
        whole = [row for row in group if row.replicated]
        lines.append(
            (
                name,
                str(len(group)),
                str(len(whole)),
                human(sum(row.bytes for row in group)),
                human(sum(row.bytes_per_device for row in group)),
                human(sum(row.bytes for row in whole)),
            )
        )
    width = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(width[0]), *(cell.rjust(w) for cell, w in zip(line[1:], width[1:]))]
        )
        for line in lines
    )


def describe(mesh: Mesh | AbstractMesh) -> str:
    """A mesh in words: its devices and its axes of more than one."""
    count, axes = (
        math.prod(mesh.shape.values()),
        " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1),
    )
    return f"{count:,} devices: {axes}" if axes else "1 device"


def human(size: float) -> str:
    """Bytes in the largest unit that leaves at least 1, to three digits."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:#.3g} {unit}"
