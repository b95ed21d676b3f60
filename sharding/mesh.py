"""From the sizes of the mesh axes to a `jax.sharding.Mesh`."""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from sharding.mesh_config import MeshConfig
from sharding.rules import mesh_in_use

__all__ = ["MeshConfig", "abstract_mesh", "join_hosts", "make_mesh", "platform"]


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Return the mesh of the given devices (default: all).

    On one host, surplus devices stay idle. Raises ValueError if the sizes do not fit, or if several
    processes would leave devices idle.
    """
    if devices is None:
        devices = jax.devices()
    sizes = config.sizes(len(devices))
    shape, count = tuple(sizes.values()), math.prod(sizes.values())
    if count < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"the mesh uses {count} of {len(devices)} devices, but with several processes "
            "it must use them all: change mesh.data."
        )

    if count == len(devices):
        # JAX lays the axes along the hardware's links. An 8 x 8 mesh has to split one axis of a
        # 4 x 4 x 4 torus.
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = np.array(devices[:count]).reshape(shape)
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def abstract_mesh(config: MeshConfig, devices: int) -> AbstractMesh:
    """Return the mesh without its devices, to describe or lower a run of any size.

    data = 0 becomes what the other axes leave of this many devices, at least 1. Raises ValueError
    for a size that is not positive.
    """
    others = math.prod(size for name, size in vars(config).items() if name != "data")
    data = config.data or max(1, devices // max(1, others))
    sizes = replace(config, data=data).sizes(sys.maxsize)
    axis_types = (AxisType.Auto,) * len(sizes)
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=axis_types)


def platform() -> str:
    """Return the platform of the mesh in use, else of the default device: "cpu", "gpu" or "tpu"."""
    mesh = mesh_in_use()
    if not isinstance(mesh, Mesh):
        return jax.default_backend()
    return mesh.devices.flat[0].platform.replace("cuda", "gpu").replace("rocm", "gpu")


def join_hosts() -> None:
    """Join the other processes of a Slurm, Open MPI or Cloud TPU job; a single process stays
    single.

    Anywhere else JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID name the
    processes by hand.
    """
    if jax.distributed.is_initialized():
        return

    env = os.environ
    if "JAX_COORDINATOR_ADDRESS" in env:
        jax.distributed.initialize(
            env["JAX_COORDINATOR_ADDRESS"],
            int(env["JAX_NUM_PROCESSES"]),
            int(env["JAX_PROCESS_ID"]),
        )
        return

    # JAX finds the other processes of these launchers by itself.
    tasks = max(int(env.get(name, 1)) for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    if tasks > 1 or "," in env.get("TPU_WORKER_HOSTNAMES", ""):
        jax.distributed.initialize()
