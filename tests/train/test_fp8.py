"""A training step in FP8: the same on every mesh, and refused where it has no meaning."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.config import (
    Config,
    Fp8Config,
    GrpoConfig,
    KernelConfig,
    LoraConfig,
    OptimizerConfig,
)
from seekjax.errors import ConfigError
from seekjax.train.optimizer import make_optimizer
from seekjax.train.validate import validate
from sharding.mesh import MeshConfig
from tests.fixtures import tiny_model
from tests.train import test_mesh_invariance as invariance

IN_FP8 = KernelConfig(dtype="fp8", fp8=Fp8Config(base="float32"), remat="none")
DENSE = tiny_model(vocab=64, layers=1, dense_layers=1, mtp_depth=0, heads=4)
# Experts as wide as two tiles, so that two devices have one each
EXPERTS = replace(DENSE, dense_layers=0, experts_per_token=4, expert_hidden=256)

# Where a mesh sums in another order, a few values fall on the other side of a rounding: that moves
# a gradient by up to two parts in a thousand. Tiles with other scales would move it by thirty.
TOLERANCE = 5e-3


def assert_the_same_step(model, mesh):
    config = replace(invariance.CONFIG, model=model, kernel=IN_FP8)
    expected = invariance.reference(config)
    found = invariance.sharded_step(config, mesh, 1)
    np.testing.assert_allclose(found["metrics"]["loss"], expected["metrics"]["loss"], rtol=1e-5)

    gradients = jax.tree_util.tree_leaves_with_path(found["gradient"])
    for (path, a), b in zip(gradients, jax.tree.leaves(expected["gradient"])):
        distance = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert distance < TOLERANCE, f"{jax.tree_util.keystr(path)}: {distance:.1e}"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.mesh
def test_linear_layers_are_the_same_on_a_mesh():
    """The tiles are those of the whole matrix and of each sequence, wherever a mesh cuts them."""
    assert_the_same_step(DENSE, "data 2 x fsdp 2 x tensor 2")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.mesh
def test_experts_are_the_same_on_a_mesh_that_brings_their_rows_together():
    assert_the_same_step(EXPERTS, "expert 4 x tensor 2")


def test_moments_in_bfloat16_follow_those_in_float32():
    axes = {"w": "embed hidden"}
    weights = {"w": jnp.ones((8, 8))}
    updates = {}
    for moments in ("float32", "bfloat16"):
        settings = OptimizerConfig(moments=moments, warmup=0, clip=0.0)
        optimizer = make_optimizer(Config(optimizer=settings), axes)
        state = optimizer.init(weights)
        for seed in range(5):
            gradients = {"w": np.random.default_rng(seed).standard_normal((8, 8), np.float32)}
            updates[moments], state = optimizer.update(gradients, state, weights)
        stored = [x.dtype for x in jax.tree.leaves(state) if x.shape == (8, 8)]
        assert stored == [jnp.dtype(moments)] * 2

    exact, rounded = updates["float32"]["w"], updates["bfloat16"]["w"]
    assert 0 < np.abs(rounded - exact).max() < 0.01 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kernel": KernelConfig(fp8=Fp8Config(scales="ue8m0"))}, "set kernel.dtype to fp8"),
        ({"lora": LoraConfig(rank=4)}, "set kernel.dtype to bfloat16"),
        ({"grpo": GrpoConfig()}, "set kernel.dtype to bfloat16"),
        ({"kernel": replace(IN_FP8, experts="loop")}, "loop has no form in FP8"),
        ({"mesh": MeshConfig(data=1, context=2)}, "needs whole sequences"),
        ({"mesh": MeshConfig(data=1, tensor=2)}, "into parts of 64, .* a multiple of 128"),
    ],
    ids=["no fp8", "lora", "grpo", "experts", "context", "tensor"],
)
def test_what_has_no_meaning_is_refused(change, sentence):
    config = replace(Config(kernel=IN_FP8, mesh=MeshConfig(data=1)), **change)
    with pytest.raises(ConfigError, match=sentence):
        validate(config)


def test_a_model_trained_in_fp8_is_used_in_bfloat16():
    assert IN_FP8.without_fp8().compute_dtype == "bfloat16"
    assert KernelConfig().without_fp8() == KernelConfig()
