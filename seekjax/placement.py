"""Where DeepSeek's arrays live: the logical axes of the models, for `sharding` to place."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from jax.sharding import AbstractMesh, Mesh

from sharding.axes import Role, Vocabulary
from sharding.mesh import MeshConfig, make_mesh
from sharding.rules import RULES, Rules, check_without_mesh, use

T = TypeVar("T")

AXES = Vocabulary(
    {
        "batch": Role.BATCH,  # sequences
        "sequence": Role.SEQUENCE,  # positions in a sequence
        "embed": Role.SHARDED_WIDTH,  # model width
        "heads": Role.PARALLEL_WIDTH,  # attention heads
        "nope": Role.WHOLE,  # head width without position
        "rotary": Role.WHOLE,  # head width with rotary position
        "value": Role.WHOLE,  # head width of values
        "q_latent": Role.SHARDED_WIDTH,  # compressed queries
        "kv_latent": Role.SHARDED_WIDTH,  # compressed keys and values
        "experts": Role.EXPERTS,  # routed experts
        "hidden": Role.PARALLEL_WIDTH,  # inner width of a dense feed-forward
        "expert_hidden": Role.PARALLEL_WIDTH,  # inner width of an expert
        "vocab": Role.PARALLEL_WIDTH,  # token ids
        "layers": Role.WHOLE,  # stacked layers
    }
)
check_without_mesh(AXES)


def declare_axes(like: Mapping[str, str]) -> None:
    """Add logical axes of a model part from outside, each placed like one of `AXES`.

    A kind of attention with fewer heads of keys than of queries calls
    `declare_axes({"kv_heads": "heads"})` when its module is imported. Raises ValueError if the
    known axis does not exist, or if the name already has another role.
    """
    AXES.declare(like)


def use_mesh(
    mesh: MeshConfig | Mesh | AbstractMesh,
    rules: Rules = RULES,
    devices: Sequence[Any] | None = None,
) -> AbstractContextManager[Any]:
    """Place a model's arrays on this mesh within the block; `as` gives the mesh.

    `devices` (default: all) are those that a MeshConfig is laid over. Raises ValueError if it does
    not fit them.
    """
    if isinstance(mesh, MeshConfig):
        mesh = make_mesh(mesh, devices)
    return use(mesh, AXES, rules)


def without_mesh(compute: Callable[[], T]) -> T:
    """Return compute(), run where no mesh is in use: on single devices, inside a run.

    The mesh in use is a property of the thread, so the function has a thread of its own.
    """
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(compute).result()
