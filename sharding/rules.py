"""The policy: which mesh axes split which logical axis, and the three verbs a model needs: `use`,
`constrain`, `local`.

A rule lists the mesh axes a logical axis would like. Rules are ordered: in each array an earlier
rule takes its mesh axes first and a later one gets what is left, so "batch sequence embed" is split
by sequences only, and the weight "embed hidden" also over its width.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import jax
import jax.extend
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from sharding.axes import LOGICAL, MESH

Rules = tuple[tuple[str, tuple[str, ...]], ...]

RULES: Rules = (
    ("batch", ("data", "fsdp", "expert")),
    ("experts", ("expert",)),
    ("heads", ("tensor",)),
    ("hidden", ("tensor",)),
    ("expert_hidden", ("tensor",)),
    ("vocab", ("tensor",)),
    ("embed", ("fsdp", "expert")),
    ("q_latent", ("fsdp", "expert")),
    ("kv_latent", ("fsdp", "expert")),
)


class Placement(NamedTuple):
    mesh: Mesh | AbstractMesh
    rules: Rules


_current: ContextVar[Placement | None] = ContextVar("placement", default=None)


@contextmanager
def use(mesh: Mesh | AbstractMesh, rules: Rules = RULES) -> Iterator[None]:
    """Place arrays on this mesh by these rules within the block. Without it every verb below leaves
    arrays where they are."""
    for logical, wanted in rules:
        _known(logical, LOGICAL, "logical axis")
        for axis in wanted:
            _known(axis, MESH, "mesh axis")
    token = _current.set(Placement(mesh, rules))
    try:
        # The mesh enters jit's cache key, so a function traced for one mesh is never reused on
        # another.
        with (
            jax.set_mesh(mesh)
            if _here(mesh)
            else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
        ):
            yield
    finally:
        _current.reset(token)


def in_use() -> bool:
    """Whether a mesh is in use here."""
    return _current.get() is not None


def spec(axes: str) -> PartitionSpec:
    """The mesh axes for an array described by its logical axes, as in "embed heads nope"; "-" is a
    dimension kept whole.

    Raises ValueError for a name that is not in sharding/axes.py, with or without a mesh in use.
    """
    names = axes.split()
    for name in names:
        if name != "-":
            _known(name, LOGICAL, "logical axis")
    placement = _current.get()
    wanted = dict(placement.rules) if placement else {}
    order = sorted(
        range(len(names)),
        key=lambda i: list(wanted).index(names[i]) if names[i] in wanted else len(wanted),
    )
    taken: set[str] = set()
    split: list = [None] * len(names)
    for i in order:
        free = tuple(axis for axis in wanted.get(names[i], ()) if axis not in taken)
        taken.update(free)
        split[i] = free[0] if len(free) == 1 else free or None
    return PartitionSpec(*split)


def sharding(axes: str) -> NamedSharding:
    """`spec` on the mesh in use."""
    return NamedSharding(_placement().mesh, spec(axes))


def constrain(x: jax.Array, axes: str) -> jax.Array:
    """Ask the compiler to lay x out by its logical axes; only checks the names when no mesh is in
    use."""
    layout = spec(axes)
    placement = _current.get()
    return (
        jax.lax.with_sharding_constraint(x, NamedSharding(placement.mesh, layout))
        if placement
        else x
    )


def local(function: Callable, inputs, outputs, opaque: bool = False) -> Callable:
    """`function` run on each device's own part: inputs and outputs are trees of logical-axes
    strings.

    The body is a plain array function that sees local shapes and may use collectives over
    `mesh_axes(...)`. What a spec leaves whole is gathered on entry, and its gradient is summed over
    the mesh on the way back (shard_map with check_vma).

    `opaque`: the body has a kernel that cannot say over which axes its result differs (Pallas ones
    that JAX ships). Raises ValueError unless every mesh axis splits every output: then none claims
    to be alike on two devices, and there is nothing for check_vma to prove.
    """
    placement = _current.get()
    if placement is None:
        return function
    if opaque:
        wide = set(_wide(placement, placement.mesh.axis_names))
        for axes in jax.tree.leaves(outputs):
            if left := wide - {
                axis
                for part in spec(axes)
                if part
                for axis in ((part,) if isinstance(part, str) else part)
            }:
                raise ValueError(
                    f"an opaque body must split {axes!r} by every mesh axis, but nothing "
                    f"in it is split by {', '.join(sorted(left))}."
                )

    def split(
        axes: str,
    ) -> (
        PartitionSpec
    ):  # an axis of one device splits nothing, but would cost its sums: they are not free on CPU
        return PartitionSpec(
            *(
                (part and _wide(placement, (part,) if isinstance(part, str) else part)) or None
                for part in spec(axes)
            )
        )

    return jax.shard_map(
        function,
        mesh=placement.mesh,
        in_specs=jax.tree.map(split, inputs),
        out_specs=jax.tree.map(split, outputs),
        check_vma=not opaque,
    )


def mesh_axes(logical: str) -> tuple[str, ...]:
    """The mesh axes that split a logical axis, for collectives inside `local`; () when no mesh is
    in use or none has two devices."""
    _known(logical, LOGICAL, "logical axis")
    placement = _current.get()
    return _wide(placement, dict(placement.rules).get(logical, ())) if placement else ()


def split_by(axes: str) -> int:
    """Into how many parts the mesh in use cuts this one logical axis."""
    placement = _current.get()
    count = 1
    for axis in mesh_axes(axes):
        count *= placement.mesh.shape[axis]
    return count


def platform() -> str:
    """The platform of the mesh in use, else of the default device: "cpu", "gpu" or "tpu"."""
    placement = _current.get()
    if placement and isinstance(placement.mesh, Mesh):
        return placement.mesh.devices.flat[0].platform.replace("cuda", "gpu").replace("rocm", "gpu")
    return jax.default_backend()


def _here(mesh: Mesh | AbstractMesh) -> bool:
    """Whether the mesh can run something: not an abstract one, nor one of devices that only compile
    (jax.experimental.topologies)."""
    return (
        isinstance(mesh, Mesh)
        and mesh.devices.flat[0].client in jax.extend.backend.backends().values()
    )


def _wide(placement: Placement, axes: Iterable[str]) -> tuple[str, ...]:
    """Those of the mesh axes that have more than one device."""
    return tuple(axis for axis in axes if placement.mesh.shape[axis] > 1)


def _placement() -> Placement:
    placement = _current.get()
    if placement is None:
        raise RuntimeError("no mesh is in use: wrap the call in `with use(mesh):`.")
    return placement


def _known(name: str, vocabulary: dict[str, str], kind: str) -> None:
    if name not in vocabulary:
        raise ValueError(
            f"{name!r} is not a {kind}; sharding/axes.py has: {', '.join(vocabulary)}."
        )
