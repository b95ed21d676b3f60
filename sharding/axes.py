"""The words of placement: what each mesh axis is for, which roles a logical axis can have, and a
vocabulary of logical axes with their roles.
"""

import enum
from collections.abc import Iterator, Mapping

NODE = "node"

MESH = {
    "data": "replicas of everything; each sees other sequences",
    "fsdp": "replicas of the computation that split parameters and moments",
    NODE: "splits the routed experts between nodes, whose links are slow; elsewhere like fsdp",
    "expert": "splits the routed experts within a node; elsewhere it acts like fsdp",
    "context": "splits the positions of each sequence; where weights are stored, like fsdp",
    "tensor": "splits heads, inner widths and the vocabulary",
}


class Role(enum.Enum):
    """How the devices may split a logical axis. The rules name the mesh axes of each role."""

    BATCH = "sequences: each device computes its own"
    SEQUENCE = "positions in a sequence: each device computes its own (context parallelism)"
    EXPERTS = "routed experts: each device holds its own, and tokens travel to them"
    PARALLEL_WIDTH = "a width whose parts are computed in parallel (tensor parallelism)"
    SHARDED_WIDTH = "a width split only where weights are stored (fully sharded data parallelism)"
    WHOLE = "whole on every device"


class Vocabulary:
    """The logical axes of a family of models by name, each with its role.

    The order counts: if two axes of one array have the same role, the one that comes earlier in
    the vocabulary takes the mesh axes.
    """

    def __init__(self, roles: Mapping[str, Role]):
        self._roles = dict(roles)

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def role(self, name: str) -> Role:
        """Return the role of a logical axis. Raises ValueError if it does not exist."""
        if name not in self._roles:
            raise ValueError(f"{name!r} is not a logical axis; there are: {', '.join(self)}.")
        return self._roles[name]

    def check(self, axes: str) -> None:
        """Raise ValueError if a name of "batch sequence - embed" is not a logical axis."""
        for name in axes.split():
            if name != "-":
                self.role(name)

    def declare(self, like: Mapping[str, str]) -> None:
        """Add logical axes, each placed like a known one, as in `declare({"kv_heads": "heads"})`.

        Declaring an axis again is allowed. Raises ValueError if the known axis does not exist, or
        if the name already has another role.
        """
        for name, known in like.items():
            role = self.role(known)
            if not name.isidentifier():
                raise ValueError(f"{name!r} cannot name a logical axis: use an identifier.")
            if self._roles.get(name, role) is not role:
                raise ValueError(
                    f"the logical axis {name!r} exists and is not placed like {known!r}: choose "
                    "another name."
                )
            self._roles[name] = role
