"""What the measurements of a training step share: the shape `mini`, a step ready to run on random
tokens, and a clock that alternates.

`mini` has 30.0M parameters and costs 76.3 MFLOP per training token; a batch is 16 sequences of 256
tokens, 4,096 in all.
"""

import os
import platform
import time
from dataclasses import replace
from statistics import median

import jax
import numpy as np

from seekjax.config import Config, DataConfig, KernelConfig, ModelConfig, TrainConfig
from seekjax.placement import use_mesh
from seekjax.train.state import RunSpec
from seekjax.train.step import BATCH, compile_steps
from sharding.mesh import MeshConfig, make_mesh
from sharding.place import put_batch

MINI = ModelConfig(
    vocab=8192,
    embed=256,
    layers=8,
    dense_layers=1,
    heads=8,
    q_latent=128,
    kv_latent=64,
    nope=32,
    rotary=16,
    value=32,
    hidden=1024,
    expert_hidden=256,
    experts=16,
    shared_experts=1,
    experts_per_token=4,
    expert_groups=4,
    groups_per_token=2,
    mtp_depth=0,
)


def config(
    sequence: int = 256,
    batch: int = 16,
    remat: str = "product",
    mesh: MeshConfig = MeshConfig(data=1),
    **model,
) -> Config:
    """A run of `mini`, with other fields of its model where given."""
    return Config(
        replace(MINI, **model),
        DataConfig(sequence=sequence),
        mesh=mesh,
        kernel=KernelConfig(remat=remat),
        train=TrainConfig(batch=batch),
    )


class Step:
    """A compiled training step that keeps its own state; calling it runs so many steps on fresh
    random tokens and gives the seconds of each."""

    def __init__(self, config: Config):
        self.config, self.mesh, self.random = (
            config,
            make_mesh(config.mesh),
            np.random.default_rng(0),
        )
        self.tokens = config.train.batch * config.data.sequence
        with use_mesh(self.mesh):
            plan = RunSpec(config)
            self.bytes_V = np.ones(config.model.vocab, np.int32)
            self.state = plan.start()
            began = time.perf_counter()
            lowered = compile_steps(plan, self.bytes_V)[0].lower(self.state, self.batch())
            lowered_at = time.perf_counter()
            self.compiled = lowered.compile()
            self.lowering, self.compiling = lowered_at - began, time.perf_counter() - lowered_at

    def batch(self) -> dict[str, jax.Array]:
        shape = 1, self.config.train.batch, self.config.data.sequence + 1
        tokens = self.random.integers(0, self.config.model.vocab, shape, dtype=np.int32)
        return put_batch({"tokens": tokens, "segments": np.ones_like(tokens)}, BATCH)

    def __call__(self, steps: int = 1) -> list[float]:
        seconds = []
        with use_mesh(self.mesh):
            for _ in range(steps):
                batch, began = jax.block_until_ready(self.batch()), time.perf_counter()
                self.state, metrics = self.compiled(self.state, batch, self.bytes_V)
                jax.block_until_ready((self.state, metrics))
                seconds.append(time.perf_counter() - began)
        return seconds


def alternate(runs: dict, turns: int = 7) -> dict[str, float]:
    """Median seconds of each function over turns in which all of them run once, so that a busy
    machine slows them alike."""
    seconds = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(turns):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - began)
    return {name: median(times) for name, times in seconds.items()}


def heading() -> str:
    """Versions and how busy the machine is."""
    return (
        f"python {platform.python_version()}, jax {jax.__version__}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}"
    )
