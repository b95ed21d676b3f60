"""Sharding and accumulation never change the result: one whole train step on every mesh against the
same step without any.

Float32. Gradients, metrics and the new balance bias agree within TOLERANCE of the largest entry of
their array. Gradients are read before Adam, whose first step is nearly their sign and would make
noise of the smallest as large as the largest.
"""

from dataclasses import replace
from functools import cache, partial

import chex
import jax
import numpy as np
import optax
import pytest

from seekjax.config import Config, DataConfig, KernelConfig, TrainConfig
from seekjax.placement import use_mesh
from seekjax.train.loss import NextToken
from seekjax.train.state import RunSpec
from seekjax.train.step import BATCH, compile_steps, train_step
from sharding.mesh import MeshConfig
from sharding.place import put_batch
from sharding.rules import sharding
from tests.fixtures import tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.mesh]

TOLERANCE = 1e-5
SEQUENCES, T = 32, 16
MESHES = {
    "1": MeshConfig(data=1),
    "data 8": MeshConfig(data=8),
    "fsdp 8": MeshConfig(data=1, fsdp=8),
    "expert 8": MeshConfig(data=1, expert=8),
    "tensor 2": MeshConfig(data=1, tensor=2),
    "data 2 x expert 4": MeshConfig(data=2, expert=4),
    "data 2 x fsdp 2 x expert 2": MeshConfig(data=2, fsdp=2, expert=2),
}
# The forms of dispatch that CPU has, and with "auto" all its fast kernels; ragged is TPU's:
# tests/sharding/test_exchange.py holds it to the same oracle.
DENSE = KernelConfig(attention="plain", experts="loop", dispatch="dense", remat="none")
KERNELS = {
    "dense": DENSE,
    "static": replace(DENSE, dispatch="static"),
    "auto": KernelConfig(vocab_chunk=24),
}
MIXED = "data 2 x fsdp 2 x expert 2"
FORMS = {
    "1": ("dense", "static"),
    # Without an axis that splits experts, a mesh places both forms alike.
    "data 8": ("dense",),
    "fsdp 8": ("static",),
    "tensor 2": ("static",),
    "expert 8": ("dense", "static"),
    "data 2 x expert 4": ("static",),
    MIXED: ("dense", "static"),
}
# Of the meshes, two run all three kinds of layer, and the others the experts alone: what is left
# out is compiled, at a cost, but placed no other way.
CASES = (
    [(mesh, form, 1, False, mesh in ("1", MIXED)) for mesh in MESHES for form in FORMS[mesh]]
    + [(MIXED, form, micro, False, False) for form, micro in (("static", 2), ("dense", 4))]
    + [("1", "auto", 2, False, True), (MIXED, "auto", 4, True, False)]
)

MODEL = tiny_model(
    vocab=64,
    layers=3,
    heads=4,
    rotary=4,
    hidden=32,
    experts=16,
    experts_per_token=4,
    expert_groups=4,
    groups_per_token=2,
)
CONFIG = Config(
    MODEL,
    DataConfig(sequence=T),
    kernel=DENSE,
    train=TrainConfig(batch=SEQUENCES, balance_loss=0.1, balance_rate=0.01),
)
EXPERTS = replace(CONFIG, model=replace(MODEL, layers=2, dense_layers=0, mtp_depth=0))
BYTES_V = np.arange(64, dtype=np.int32) % 5


class GradientSpec(RunSpec):
    """A spec with an optimizer that keeps the gradient and adds nothing else."""

    def __init__(self, config):
        super().__init__(config)
        self.optimizer = optax.trace(decay=0.0)


@cache
def start(model):
    """The state before the step as host arrays; with a balance bias that changes who is chosen."""
    with use_mesh(MeshConfig(data=1)):
        state = GradientSpec(replace(CONFIG, model=model)).start()
    random = np.random.default_rng(0)
    balance = jax.tree.map(
        lambda bias: random.uniform(-0.1, 0.1, bias.shape).astype(np.float32), state.balance
    )
    return jax.tree.map(
        np.asarray, state.replace(balance=balance, key=jax.random.key_data(state.key))
    )


def make_batch(micro):
    """Documents of random lengths, padding after some of them, two rows of nothing but padding."""
    random = np.random.default_rng(1)
    segments = np.sort(random.integers(1, 4, (SEQUENCES, T + 1)), -1)
    segments[::3, -5:] = segments[5] = segments[20] = 0
    batch = {"tokens": random.integers(0, 64, segments.shape), "segments": segments}
    return {
        name: x.astype(np.int32).reshape(micro, SEQUENCES // micro, T + 1)
        for name, x in batch.items()
    }


@cache
def reference(config):
    """Gradients, bias and metrics of the plainest path: no mesh, one batch, plain kernels."""
    plan = GradientSpec(config)
    return read(
        *jax.jit(partial(train_step, plan, NextToken(plan, BYTES_V)))(
            start(config.model), make_batch(1)
        )
    )


def sharded_step(config, mesh, micro):
    with use_mesh(MESHES[mesh]):
        plan = GradientSpec(config)
        state = jax.device_put(start(config.model), jax.tree.map(sharding, plan.state_axes()))
        batch = put_batch(make_batch(micro), BATCH)
        step = compile_steps(plan, BYTES_V)[0].lower(state, batch).compile()
        return read(*step(state, batch, np.asarray(BYTES_V)))


def read(state, metrics):
    return jax.tree.map(
        np.asarray,
        {
            "gradient": state.opt_state.trace,
            "balance": state.balance,
            "metrics": metrics,
            "step": state.step,
        },
    )


@pytest.mark.parametrize(("mesh", "kernel", "micro", "mask_documents", "whole"), CASES)
def test_a_step_is_the_same_everywhere(mesh, kernel, micro, mask_documents, whole):
    config = CONFIG if whole else EXPERTS
    config = replace(config, data=replace(config.data, mask_documents=mask_documents))
    expected = reference(config)
    found = sharded_step(
        replace(
            config,
            kernel=KERNELS[kernel],
            train=replace(config.train, micro_batch=SEQUENCES // micro),
        ),
        mesh,
        micro,
    )
    chex.assert_trees_all_equal_structs(found, expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(
            a, b, atol=TOLERANCE * np.abs(b).max(), rtol=0, err_msg=jax.tree_util.keystr(path)
        )


def test_the_reference_says_something():
    """Every array has a gradient, every load is counted once, and masks of documents matter."""
    seen, masked = (
        reference(CONFIG),
        reference(replace(CONFIG, data=replace(CONFIG.data, mask_documents=True))),
    )
    assert all(np.abs(g).max() > 1e-6 for g in jax.tree.leaves(seen["gradient"]))
    metrics, tokens = seen["metrics"], make_batch(1)["segments"][0]
    assert metrics["tokens"] == (tokens[:, 1:] > 0).sum() > masked["metrics"]["tokens"]
    np.testing.assert_array_equal(
        metrics["experts"]["load"].sum(-1), 4 * (tokens[:, :-1] > 0).sum()
    )
    assert metrics["experts"]["load"].shape == (3, 16)
    assert (metrics["experts"]["max_violation"] > 0.1).all()
    moved = jax.tree.map(lambda new, old: np.abs(new - old), seen["balance"], start(MODEL).balance)
    assert all(
        set(np.unique(x.round(6))) <= {0, np.float32(0.01)} and x.any()
        for x in jax.tree.leaves(moved)
    )
    assert abs(metrics["loss"] - masked["metrics"]["loss"]) > 1e-3
