"""Three train steps on data 2 x fsdp 2 x expert 2: `steps_on_processes.py FILE`, alone or as one of
the processes that join_hosts finds.

The first process writes the losses, the loads of the experts and every parameter to FILE.
"""

import sys

import jax
import numpy as np

from seekjax.config import (
    Config,
    DataConfig,
    OptimizerConfig,
    TrainConfig,
)
from seekjax.placement import use_mesh
from seekjax.train.state import RunSpec
from seekjax.train.step import BATCH, compile_steps
from sharding.mesh import MeshConfig, join_hosts
from sharding.place import put_batch
from sharding.rules import sharding
from tests.fixtures import PLAIN, tiny_model

SEQUENCES, T, STEPS = 16, 16, 3
CONFIG = Config(
    tiny_model(
        vocab=64,
        layers=1,
        rotary=4,
        dense_layers=0,
        mtp_depth=0,
        expert_groups=4,
        groups_per_token=2,
    ),
    DataConfig(sequence=T),
    OptimizerConfig(eps=1e-3),
    MeshConfig(data=2, fsdp=2, expert=2),
    PLAIN,
    TrainConfig(steps=STEPS, batch=SEQUENCES, micro_batch=8, balance_rate=0.01),
)


def main(file):
    join_hosts()
    random, seen = np.random.default_rng(0), []
    with use_mesh(CONFIG.mesh):
        plan = RunSpec(CONFIG)
        state = plan.start()
        step, train = compile_steps(plan, np.ones(64, np.int32))[0], None
        for _ in range(STEPS):
            tokens = random.integers(0, 64, (2, 8, T + 1)).astype(
                np.int32
            )  # two micro-batches, the same in every process
            own = tokens.reshape(2, jax.process_count(), -1, T + 1)[:, jax.process_index()]
            batch = put_batch({"tokens": own, "segments": np.ones_like(own)}, BATCH)
            train = train or step.lower(state, batch).compile()
            state, metrics = train(state, batch, np.ones(64, np.int32))
            seen.append(
                {
                    "loss": float(metrics["loss"]),
                    "load": np.asarray(metrics["experts"]["load"]),
                    "tokens": int(metrics["tokens"]),
                }
            )
        whole = jax.jit(lambda tree: tree, out_shardings=sharding(""))(
            (state.params, state.balance)
        )
    if jax.process_index() == 0:
        leaves = {
            jax.tree_util.keystr(path): np.asarray(x)
            for path, x in jax.tree_util.tree_leaves_with_path((whole, seen))
        }
        np.savez(file, processes=jax.process_count(), devices=jax.device_count(), **leaves)


if __name__ == "__main__":
    main(sys.argv[1])
