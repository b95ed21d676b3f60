"""The policy: which mesh axes split which logical axis, and the verbs that a model needs: `use`,
`constrain`, `local`.

A rule lists the mesh axes for a role of logical axes. Rules are ordered: in each array an earlier
rule takes its mesh axes first, and a later rule gets what is left. So "batch sequence embed" is
split by sequences only, and the weight "embed hidden" also along its width.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import jax
import jax.extend
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from sharding.axes import MESH, NODE, Role, Vocabulary

Rules = tuple[tuple[Role, tuple[str, ...]], ...]
AnyMesh = TypeVar("AnyMesh", bound=Mesh | AbstractMesh)

RULES: Rules = (
    (Role.BATCH, ("data", "fsdp", "node", "expert")),
    (Role.SEQUENCE, ("context",)),
    (Role.EXPERTS, ("node", "expert")),
    (Role.PARALLEL_WIDTH, ("tensor",)),
    (Role.SHARDED_WIDTH, ("fsdp", "node", "expert", "context")),
)


class Placement(NamedTuple):
    """A mesh, the names of logical axes, and the rules between them."""

    mesh: Mesh | AbstractMesh
    vocabulary: Vocabulary
    rules: Rules

    def wanted(self, name: str) -> tuple[str, ...]:
        """Return the mesh axes that the rules list for a logical axis."""
        if name == "-":
            return ()
        return dict(self.rules).get(self.vocabulary.role(name), ())

    def with_peers(self, axes: Iterable[str]) -> tuple[str, ...]:
        """Return the mesh axes, of those given, that have more than one device."""
        return tuple(axis for axis in axes if self.mesh.shape[axis] > 1)


_current: ContextVar[Placement | None] = ContextVar("placement", default=None)
_vocabulary_without_mesh: Vocabulary | None = None


@contextmanager
def use(
    mesh: AnyMesh,
    vocabulary: Vocabulary,
    rules: Rules = RULES,
) -> Iterator[AnyMesh]:
    """Place arrays on this mesh by these rules within the block.

    Outside such a block each verb below leaves arrays where they are. Raises ValueError if a rule
    names a role or a mesh axis that does not exist.
    """
    for role, wanted in rules:
        if not isinstance(role, Role):
            raise ValueError(f"{role!r} is not a role; there are: {', '.join(Role.__members__)}.")
        for axis in wanted:
            if axis not in MESH:
                raise ValueError(f"{axis!r} is not a mesh axis; there are: {', '.join(MESH)}.")

    token = _current.set(Placement(mesh, vocabulary, rules))
    try:
        # The mesh enters jit's cache key: a function traced for one mesh is never reused on
        # another.
        with _active(mesh):
            yield mesh
    finally:
        _current.reset(token)


def check_without_mesh(vocabulary: Vocabulary) -> None:
    """Check the names of logical axes against this vocabulary also where no mesh is in use."""
    global _vocabulary_without_mesh
    _vocabulary_without_mesh = vocabulary


def check_names(axes: str) -> None:
    """Raise ValueError if one of these names is not a logical axis.

    Without a mesh the vocabulary of `check_without_mesh` is used, if there is one.
    """
    placement = _current.get()
    vocabulary = placement.vocabulary if placement else _vocabulary_without_mesh
    if vocabulary is not None:
        vocabulary.check(axes)


def in_use() -> bool:
    """Return whether a mesh is in use here."""
    return _current.get() is not None


def mesh_in_use() -> Mesh | AbstractMesh | None:
    """Return the mesh in use here, or None."""
    placement = _current.get()
    return placement.mesh if placement else None


def split_axes(axes: str) -> list[tuple[str, ...]]:
    """Return, for each dimension of an array with these logical axes, the mesh axes that split it.

    Raises ValueError for a name that is not in the vocabulary, with or without a mesh in use.
    """
    names = axes.split()
    check_names(axes)

    placement = _current.get()
    if placement is None:
        return [()] * len(names)
    return assign(names, placement.vocabulary, placement.rules)


def assign(names: list[str], vocabulary: Vocabulary, rules: Rules) -> list[tuple[str, ...]]:
    """Return the mesh axes that split each dimension of an array with these logical axes.

    The dimension whose rule comes first takes its mesh axes first; then the vocabulary's order
    decides.
    """
    roles = [role for role, _ in rules]

    def priority(i: int) -> tuple[int, int]:
        name = names[i]
        if name == "-" or vocabulary.role(name) not in roles:
            return len(roles), 0
        return roles.index(vocabulary.role(name)), list(vocabulary).index(name)

    split: list[tuple[str, ...]] = [()] * len(names)
    taken: set[str] = set()
    for i in sorted(range(len(names)), key=priority):
        name = names[i]
        wanted = () if name == "-" else dict(rules).get(vocabulary.role(name), ())
        split[i] = tuple(axis for axis in wanted if axis not in taken)
        taken.update(split[i])
    return split


def spec(axes: str) -> PartitionSpec:
    """Return the PartitionSpec of an array with these logical axes, as in "embed heads nope".

    "-" is a dimension kept whole. Raises ValueError for a name that is not in the vocabulary, with
    or without a mesh in use.
    """
    entries = []
    for names in split_axes(axes):
        entries.append(names[0] if len(names) == 1 else names or None)
    return PartitionSpec(*entries)


def sharding(axes: str) -> NamedSharding:
    """Return `spec` on the mesh in use. Raises RuntimeError without one."""
    placement = _current.get()
    if placement is None:
        raise RuntimeError("no mesh is in use: wrap the call in `with use(mesh, vocabulary):`.")
    return NamedSharding(placement.mesh, spec(axes))


def constrain(x: jax.Array, axes: str) -> jax.Array:
    """Ask the compiler to lay x out by its logical axes; without a mesh, only check the names."""
    if in_use():
        return jax.lax.with_sharding_constraint(x, sharding(axes))
    check_names(axes)
    return x


def local(
    function: Callable,
    inputs: Any,
    outputs: Any,
    opaque: bool = False,
) -> Callable:
    """Return `function` run on each device's own part of its arguments.

    `inputs` and `outputs` are trees of logical-axes strings. The body is a plain array function
    that sees local shapes and may use collectives over `mesh_axes(...)`. An array that its axes
    leave whole is gathered on entry, and its gradient is summed over the mesh on the way back
    (shard_map with check_vma).

    `opaque`: the body has a kernel that cannot say over which axes its result differs (the Pallas
    kernels that JAX ships). Raises ValueError unless every mesh axis splits every output: then no
    output claims to be equal on two devices, and check_vma has nothing to prove.
    """
    placement = _current.get()
    if placement is None:
        return function

    if opaque:
        for axes in jax.tree.leaves(outputs):
            _check_split_by_all(axes, placement)

    def wide_spec(axes: str) -> PartitionSpec:
        # Drop mesh axes of size 1: their psums are not free on CPU.
        entries = [placement.with_peers(names) or None for names in split_axes(axes)]
        return PartitionSpec(*entries)

    return jax.shard_map(
        function,
        mesh=placement.mesh,
        in_specs=jax.tree.map(wide_spec, inputs),
        out_specs=jax.tree.map(wide_spec, outputs),
        check_vma=not opaque,
    )


def mesh_axes(logical: str) -> tuple[str, ...]:
    """Return the mesh axes that split a logical axis, for collectives inside `local`.

    The result is () without a mesh, or if each of these mesh axes has one device.
    """
    if len(logical.split()) != 1:
        raise ValueError(f"{logical!r} is not a logical axis: name one.")
    placement = _current.get()
    if placement is None:
        check_names(logical)
        return ()
    return placement.with_peers(placement.wanted(logical))


def split_by(logical: str) -> int:
    """Return into how many parts the mesh in use splits a logical axis."""
    mesh = mesh_in_use()
    axes = mesh_axes(logical)
    return math.prod(mesh.shape[axis] for axis in axes) if mesh else 1


def nodes_in_use() -> int:
    """Return between how many nodes the mesh in use splits the experts."""
    mesh = mesh_in_use()
    return mesh.shape[NODE] if mesh else 1


def _active(mesh: Mesh | AbstractMesh) -> AbstractContextManager[Any]:
    """Make JAX trace for this mesh.

    A mesh that cannot execute programs is set without its devices: an abstract one, or one of
    devices that only compile (jax.experimental.topologies).
    """
    backends = jax.extend.backend.backends().values()
    if isinstance(mesh, Mesh) and mesh.devices.flat[0].client in backends:
        return jax.set_mesh(mesh)
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def _check_split_by_all(axes: str, placement: Placement) -> None:
    """Raise ValueError unless every mesh axis of more than one device splits this array."""
    used = {name for names in split_axes(axes) for name in names}
    unused = set(placement.with_peers(placement.mesh.axis_names)) - used
    if unused:
        raise ValueError(
            f"an opaque body must split {axes!r} by every mesh axis, but nothing in it is split "
            f"by {', '.join(sorted(unused))}."
        )
