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
    """Devices that a collective joins, along some mesh axes."""

    axes: tuple[tuple[int, int], ...]  # size, and how far apart its devices are numbered

    @property
    def size(self) -> int:
        """Devices in all."""
        return math.prod(size for size, _ in self.axes)

    def inside(self, node: int) -> int:
        """Return how many of the devices lie in one node of `node` devices."""
        counts = [max(1, min(size, node // stride)) for size, stride in self.axes]
        return math.prod(counts)


def span(names: tuple[str, ...], sizes: Sizes) -> Span:
    """Return the devices along mesh axes; the last axis of the mesh is numbered first."""
    order = list(sizes)
    axes = []
    for name in names:
        after = order[order.index(name) + 1 :]
        axes.append((sizes[name], math.prod(sizes[other] for other in after)))
    return Span(tuple(axes))
