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
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from seekjax.config import Config, DataConfig, KernelConfig, TrainConfig
from seekjax.placement import use_mesh
from seekjax.train.loss import NextToken
from seekjax.train.state import RunSpec
from seekjax.train.step import BATCH, compile_steps, train_step
from sharding.axes import Role
from sharding.mesh import MeshConfig
from sharding.place import put_batch
from sharding.rules import constrain, sharding
from tests.fixtures import tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.mesh]

TOLERANCE = 1e-5
SEQUENCES, T = 32, 16
MESHES = {
    "1": MeshConfig(data=1),
    "fsdp 8": MeshConfig(data=1, fsdp=8),
    "node 2 x expert 4": MeshConfig(data=1, node=2, expert=4),
    "tensor 2": MeshConfig(data=1, tensor=2),
    "data 2 x fsdp 2 x tensor 2": MeshConfig(data=2, fsdp=2, tensor=2),
    "expert 4 x tensor 2": MeshConfig(data=1, expert=4, tensor=2),
    "data 2 x fsdp 2 x expert 2": MeshConfig(data=2, fsdp=2, expert=2),
    "data 2 x expert 2 x context 2": MeshConfig(data=2, expert=2, context=2),
    "fsdp 2 x context 2 x tensor 2": MeshConfig(data=1, fsdp=2, context=2, tensor=2),
    "fsdp 2 x context 4": MeshConfig(data=1, fsdp=2, context=4),
    "context 8": MeshConfig(data=1, context=8),
}
DENSE = KernelConfig(attention="plain", experts="loop", dispatch="dense", remat="none")
STATIC = replace(DENSE, dispatch="static")
TWO_HOP = replace(DENSE, dispatch="two_hop")
# All the fast kernels that CPU has.
AUTO = KernelConfig(vocab_chunk=24)

MODEL = tiny_model(
    vocab=64,
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
    DataConfig(sequence=T, mask_documents=True),
    kernel=DENSE,
    train=TrainConfig(batch=SEQUENCES, balance_loss=0.1, balance_rate=0.01),
)
EXPERTS = replace(
    CONFIG,
    model=replace(MODEL, layers=1, dense_layers=0, mtp_depth=0),
    data=replace(CONFIG.data, mask_documents=False),
)
# One layer with everything that looks along a sequence: attention within documents, targets of two
# depths, the balance loss.
ALONG = replace(CONFIG, model=replace(MODEL, layers=1, dense_layers=0))
QUANTILE = replace(EXPERTS, model=replace(EXPERTS.model, bias_update="quantile"))
# Each axis alone runs one layer of experts, and one mesh of three axes all kinds of layer: what is
# left out is compiled, at a cost, but placed no other way. tests/sharding/test_exchange.py has each
# form of dispatch on each kind of mesh.
CASES = [
    ("1", EXPERTS, AUTO, 2),
    ("fsdp 8", EXPERTS, STATIC, 1),
    ("node 2 x expert 4", EXPERTS, TWO_HOP, 2),
    ("tensor 2", EXPERTS, STATIC, 1),
    pytest.param("data 2 x fsdp 2 x expert 2", CONFIG, AUTO, 4, marks=pytest.mark.long),
    pytest.param("data 2 x expert 2 x context 2", ALONG, STATIC, 1, marks=pytest.mark.long),
    pytest.param("fsdp 2 x context 2 x tensor 2", EXPERTS, AUTO, 2, marks=pytest.mark.long),
    pytest.param("fsdp 2 x context 4", EXPERTS, AUTO, 1, marks=pytest.mark.long),
    pytest.param("context 8", QUANTILE, STATIC, 1, marks=pytest.mark.long),
]
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


@pytest.fixture
def compiler_says(capfd):
    """A function that returns what XLA has written since its last call; nothing is cached."""
    cached = jax.config.jax_enable_compilation_cache

    def cache(enabled):
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()

    cache(False)
    yield lambda: capfd.readouterr().err
    cache(cached)


@pytest.mark.parametrize(
    ("mesh", "config", "kernel", "micro"), CASES, ids=lambda value: value if value in MESHES else ""
)
def test_a_step_is_the_same_everywhere(mesh, config, kernel, micro, compiler_says):
    """And XLA finds a way between all layouts: it gathers no array for one that the model asks."""
    expected = reference(config)
    compiler_says()
    train = replace(config.train, micro_batch=SEQUENCES // micro)
    found = sharded_step(replace(config, kernel=kernel, train=train), mesh, micro)
    assert "rematerialization" not in compiler_says().lower()

    chex.assert_trees_all_equal_structs(found, expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(
            a, b, atol=TOLERANCE * np.abs(b).max(), rtol=0, err_msg=jax.tree_util.keystr(path)
        )


def test_the_compiler_says_if_it_finds_no_way(compiler_says):
    """Two odd layouts draw an "involuntary full rematerialization"."""
    odd_rules = (
        (Role.BATCH, ("data", "fsdp", "expert")),
        (Role.PARALLEL_WIDTH, ("expert", "data")),
        (Role.SHARDED_WIDTH, ("fsdp",)),
    )

    def odd(x):
        x = constrain(jnp.sin(x), "batch - -")
        return constrain(jnp.cos(x), "- heads embed")

    with use_mesh(MESHES["data 2 x fsdp 2 x expert 2"], odd_rules):
        jax.jit(odd).lower(jnp.zeros((8, 8, 8))).compile()
    assert "Involuntary full rematerialization" in compiler_says()


@pytest.mark.parametrize("config", [CONFIG, EXPERTS], ids=["masked", "plain"])
def test_the_reference_says_something(config):
    """Every array has a gradient, every load is counted once, and documents are masked."""
    seen = reference(config)
    assert all(np.abs(g).max() > 1e-6 for g in jax.tree.leaves(seen["gradient"]))

    segments, metrics = make_batch(1)["segments"][0], seen["metrics"]
    is_target = segments[:, 1:] > 0
    if config.data.mask_documents:
        is_target &= segments[:, 1:] == segments[:, :-1]
    assert metrics["tokens"] == is_target.sum()
    experts, model = metrics["experts"], config.model
    layers = model.layers - model.dense_layers + model.mtp_depth
    np.testing.assert_array_equal(experts["load"].sum(-1), 4 * (segments[:, :-1] > 0).sum())
    assert experts["load"].shape == (layers, 16)
    assert (experts["max_violation"] > 0.1).all()

    def check_moved(new, old):
        moved = np.abs(new - old)
        assert moved.any()
        assert set(np.unique(moved.round(6))) <= {0, np.float32(0.01)}

    jax.tree.map(check_moved, seen["balance"], start(config.model).balance)
