"""The train step compiled for devices that are not here: libtpu has the TPU's compiler and needs no
TPU.
"""

import importlib.util
import os
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from seekjax.config import Config
from seekjax.errors import UsageError
from seekjax.extras import missing_extra
from seekjax.placement import use_mesh
from seekjax.train.state import RunSpec
from seekjax.train.step import BATCH, compile_steps
from sharding.mesh import make_mesh
from sharding.rules import sharding

NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
}


@dataclass(frozen=True)
class CompiledStep:
    """What the compiler says of a train step; bytes are those of one device."""

    arguments: int  # the state and the batch
    outputs: int
    aliased: int  # of the outputs, in the place of arguments
    temporaries: int
    seconds: float  # that compiling took
    text: str  # the program

    @property
    def peak(self) -> int:
        """The most bytes that a step needs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


def tpu_devices(chip: str, torus: str) -> list[Any]:
    """Return the devices of a TPU topology, as ("v5p", "4x4x4"), that exist only for the compiler.

    Raises UsageError if libtpu is not installed or has no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise missing_extra("--compile", "libtpu", "tpu-plan", UsageError)

    # Without these libtpu looks for a TPU of this machine, and prints that there is none
    for name, value in NO_TPU.items():
        os.environ.setdefault(name, value)
    topology = f"{chip}:{torus}"
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"libtpu has no topology {topology} ({reason}): name the sides of one, as "
            "--on v5p:64 --compile 4x4x4."
        ) from error
    return list(description.devices)


def compile_ahead(config: Config, devices: list[Any]) -> CompiledStep:
    """Compile the train step of pre-training on these devices.

    Raises JaxRuntimeError with the compiler's own words if the step does not fit.
    """
    with use_mesh(make_mesh(config.mesh, devices)):
        spec = RunSpec(config)
        step, _ = compile_steps(spec, np.ones(config.model.vocab, np.int32))

        rows = config.train.rows
        shape = (config.train.batch // rows, rows, config.data.sequence + 1)
        tokens = jax.ShapeDtypeStruct(shape, np.int32, sharding=sharding(BATCH))
        start = time.perf_counter()
        compiled = step.lower(
            spec.abstract_state(), {"tokens": tokens, "segments": tokens}
        ).compile()
        seconds = time.perf_counter() - start

    memory = compiled.memory_analysis()
    return CompiledStep(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        seconds=seconds,
        text=compiled.as_text(),
    )
