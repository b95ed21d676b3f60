"""Into how many parts a mesh splits an array, and how far its axes reach: sizes alone, no devices.

For plans of meshes that do not exist yet. The rules are those of sharding/rules.py.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from sharding.axes import NODE, Role, Vocabulary
from sharding.rules import RULES, Rules, assign

Sizes = Mapping[str, int]  # of the mesh axes by name, the outermost first


class Parts(NamedTuple):
    """How a mesh splits one array."""

    stored: int  # parts that it is stored in
    computed: int  # parts that it is computed with in, once gathered for its products
    gathered: tuple[str, ...]  # mesh axes along which it is gathered: those of a sharded width


def parts(axes: str, sizes: Sizes, vocabulary: Vocabulary, rules: Rules = RULES) -> Parts:
    """Return the parts of an array with these logical axes, as in "embed heads nope"."""
    names = axes.split()
    stored = computed = 1
    gathered: tuple[str, ...] = ()
    for name, split in zip(names, assign(names, vocabulary, rules)):
        count = math.prod(sizes[axis] for axis in split)
        stored *= count
        if name != "-" and vocabulary.role(name) is Role.SHARDED_WIDTH:
            gathered += split
        else:
            computed *= count
    return Parts(stored, computed, gathered)


def split_parts(name: str, sizes: Sizes, vocabulary: Vocabulary, rules: Rules = RULES) -> int:
    """Return into how many parts the mesh splits one logical axis that has all it asks for."""
    return math.prod(sizes[axis] for axis in split_along(name, vocabulary, rules))


def split_along(name: str, vocabulary: Vocabulary, rules: Rules = RULES) -> tuple[str, ...]:
    """Return the mesh axes that split one logical axis that has all it asks for."""
    return assign([name], vocabulary, rules)[0]


def nodes_of(sizes: Sizes) -> int:
    """Return the nodes that share out the experts."""
    return sizes.get(NODE, 1)


class Span(NamedTuple):
    """Devices that a collective joins: how many, and how far apart they are numbered."""

    size: int
    stride: int

    def inside(self, node: int) -> int:
        """Return how many of the devices lie in one node of `node` devices."""
        return max(1, min(self.size, node // self.stride))


def span(names: tuple[str, ...], sizes: Sizes) -> Span:
    """Return the devices along neighbouring mesh axes; the last axis is numbered first."""
    order = list(sizes)
    size = math.prod(sizes[name] for name in names)
    if not names:
        return Span(1, 1)
    after = order[max(order.index(name) for name in names) + 1 :]
    return Span(size, math.prod(sizes[name] for name in after))
