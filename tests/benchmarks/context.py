"""Context parallelism on eight emulated devices: memory of a train step by length and by devices,
and the time of a step next to that of one device.

    JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=8 python -m tests.benchmarks.context [memory] [time]

The model is that of configs/tiny.py with two layers and without its prediction module; one sequence
is a batch. Memory is what XLA plans for each
device besides arguments and results, so nothing runs. Times alternate between the meshes, and the
least of the turns is shown. Results: tests/benchmarks/results/context.md
"""

import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs.tiny import config as tiny
from seekjax.placement import use_mesh
from seekjax.train.state import RunSpec
from seekjax.train.step import BATCH, compile_steps
from sharding.mesh import MeshConfig
from sharding.place import put_batch
from sharding.rules import sharding

LENGTHS = (4096, 8192, 16384, 32768)
CONTEXTS = (1, 2, 4, 8)
TIMED = 4096
TURNS = 4


def spec_of(length: int, remat: str = "latent") -> RunSpec:
    """The run of one sequence of this length."""
    return RunSpec(
        replace(
            tiny,
            model=replace(tiny.model, context=length, layers=2, mtp_depth=0),
            data=replace(tiny.data, sequence=length),
            kernel=replace(tiny.kernel, remat=remat),
            train=replace(tiny.train, batch=1),
        )
    )


def planned_bytes(length: int, context: int) -> int:
    """Bytes that XLA plans for the temporary arrays of a step on each device."""
    with use_mesh(MeshConfig(data=1, context=context)):
        spec = spec_of(length)
        step = compile_steps(spec, np.zeros(spec.config.model.vocab, np.int32))[0]
        rows = jax.ShapeDtypeStruct((1, 1, length + 1), jnp.int32, sharding=sharding(BATCH))
        batch = {"tokens": rows, "segments": rows}
        compiled = step.lower(spec.abstract_state(), batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def memory() -> None:
    """Print memory by length on eight devices, and by devices at the longest length."""
    print("| tokens | devices | MiB per device | KiB per token of a device |\n|---|---|---|---|")
    cases = [(length, 8) for length in LENGTHS]
    cases += [(LENGTHS[-1], context) for context in CONTEXTS[:-1]]
    for length, context in cases:
        size = planned_bytes(length, context)
        own = length / context
        print(
            f"| {length} | {context} | {size / 2**20:.0f} | {size / own / 2**10:.1f} |", flush=True
        )


def seconds() -> None:
    """Print the time of a step on one device and on eight emulated ones."""
    steps: dict[int, Any] = {}
    random = np.random.default_rng(0)
    tokens = random.integers(0, 512, (1, 1, TIMED + 1)).astype(np.int32)
    least = {}
    for context in (1, 8):
        with use_mesh(MeshConfig(data=1, context=context)):
            spec = spec_of(TIMED)
            step = compile_steps(spec, np.zeros(spec.config.model.vocab, np.int32))[0]
            batch = put_batch({"tokens": tokens, "segments": np.ones_like(tokens)}, BATCH)
            state, _ = step(spec.start(), batch)
            steps[context] = [step, jax.block_until_ready(state), batch]
            least[context] = float("inf")

    for _ in range(TURNS):
        for context, (step, state, batch) in steps.items():
            with ExitStack() as stack:
                stack.enter_context(use_mesh(MeshConfig(data=1, context=context)))
                start = time.perf_counter()
                steps[context][1], _ = jax.block_until_ready(step(state, batch))
                least[context] = min(least[context], time.perf_counter() - start)
    print(f"| devices | seconds of a step of {TIMED} tokens |\n|---|---|")
    for context, time_of in least.items():
        print(f"| {context} | {time_of:.2f} |", flush=True)


if __name__ == "__main__":
    for name, run in {"memory": memory, "time": seconds}.items():
        if name in sys.argv[1:] or len(sys.argv) == 1:
            run()
