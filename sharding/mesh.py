"""From the sizes of the mesh axes to a `jax.sharding.Mesh`."""

import math
import os
import sys
from dataclasses import dataclass, fields, replace

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh


@dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis spans; the product is the number of devices a run uses."""

    # replicas that share nothing but the gradient sum; 0 = all devices that the other axes leave
    data: int = 0
    fsdp: int = 1  # replicas that also split parameters and optimizer moments (ZeRO-3)
    expert: int = 1  # splits the routed experts; tokens travel to them and back (V3 section 3.2)
    tensor: int = 1  # splits heads, hidden widths and the vocabulary

    def sizes(self, devices: int) -> dict[str, int]:
        """Axis sizes with `data = 0` filled in for so many devices. Raises ValueError when they
        cannot fit."""
        sizes = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, size in sizes.items():
            if size < (0 if name == "data" else 1):
                raise ValueError(f"mesh.{name} is {size}: give a positive number of devices.")
        rest = math.prod(size for name, size in sizes.items() if name != "data")
        if not self.data:
            if devices % rest:
                raise ValueError(
                    f"the mesh asks for fsdp x expert x tensor = {rest} devices, which "
                    f"does not divide the {devices} there are; "
                    f"change these axes or set mesh.data yourself{_hint(rest)}."
                )
            sizes["data"] = devices // rest
        wanted = math.prod(sizes.values())
        if wanted > devices:
            asked = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
            raise ValueError(
                f"the mesh asks for {wanted} devices ({asked}) but there "
                f"{'is' if devices == 1 else 'are'} {devices}: "
                f"make the axes smaller{_hint(wanted)}."
            )
        return sizes


def _hint(devices: int) -> str:
    return f", or emulate them on a CPU with JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={devices}"


def make_mesh(config: MeshConfig, devices=None) -> Mesh:
    """The mesh of the given (default: all) devices; surplus devices stay idle on one host and are
    an error on several."""
    devices = jax.devices() if devices is None else devices
    sizes = config.sizes(len(devices))
    count = math.prod(sizes.values())
    if count < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"the mesh uses {count} of {len(devices)} devices, but with several processes "
            "it must use them all: change mesh.data."
        )
    shape = tuple(sizes.values())
    if (
        count == len(devices)
        # let JAX lay the axes along the hardware's links; an 8 x 8 mesh has to split one of a 4 x 4
        # x 4
        # torus
    ):
        placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        placed = np.array(devices[:count]).reshape(shape)
    return Mesh(placed, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def abstract_mesh(config: MeshConfig, devices: int) -> AbstractMesh:
    """The mesh without its devices, to describe or lower a run of any size; data = 0 is what the
    other axes leave of so many, at least 1."""
    rest = config.fsdp * config.expert * config.tensor
    sizes = replace(config, data=config.data or max(1, devices // max(1, rest))).sizes(sys.maxsize)
    return AbstractMesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes)
    )


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
    elif any(
        int(env.get(name, 1)) > 1 for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
    ) or "," in env.get("TPU_WORKER_HOSTNAMES", ""):
        jax.distributed.initialize()
