"""The optimizer against an independent AdamW, every setting apart."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest

from seekjax.config import CONSTANT, Config, OptimizerConfig, TrainConfig
from seekjax.train.optimizer import make_optimizer
from tests.reference import adamw

# The axes of every kind of weight: matrices decay, the scales of norms do not, stacked or not.
AXES = {
    "embed": "vocab embed",
    "final_norm": "embed",
    "layers_norm": "layers embed",
    "experts": "layers experts embed expert_hidden",
    "router": "layers embed experts",
    "head": "embed vocab",
}
DECAYED = {"embed", "experts", "router", "head"}
SETTINGS = OptimizerConfig(learning_rate=0.1, warmup=2, schedule=CONSTANT, eps=1e-3)


def draw(random, scale, size=3):
    shapes = {name: (size,) * len(axes.split()) for name, axes in AXES.items()}
    return {
        name: random.normal(size=shape).astype(np.float32) * scale for name, shape in shapes.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"weight_decay": 0.5},
        {"beta1": 0.5},
        {"beta2": 0.5},
        {"clip": 0.1},
        {"clip": 1e9},
        {"clip": 0.0},
        {"eps": 0.1},
        {"warmup": 0},
    ],
    ids=str,
)
def test_adamw_is_the_papers(change):
    settings = replace(SETTINGS, **change)
    config = Config(optimizer=settings, train=TrainConfig(steps=10))
    random = np.random.default_rng(0)

    # The first two gradients have a norm above 1, the third far below.
    params = draw(random, 1.0)
    gradients = [draw(random, scale) for scale in (3.0, 0.5, 0.001)]
    optimizer = make_optimizer(config, AXES)
    found, state = params, optimizer.init(params)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, found)
        found = optax.apply_updates(found, updates)

    rates = [0.1] * 3 if settings.warmup == 0 else [0.05, 0.1, 0.1]
    expected = adamw.train(
        params,
        gradients,
        rates,
        DECAYED,
        settings.beta1,
        settings.beta2,
        settings.eps,
        settings.weight_decay,
        settings.clip,
    )
    for name, x in jax.device_get(found).items():
        np.testing.assert_allclose(x, expected[name], rtol=2e-5, atol=2e-6, err_msg=name)


def test_muon_makes_each_inner_matrix_nearly_orthogonal():
    """Of every layer and expert apart; embedding, head and norms are Adam's, of one size."""
    settings = replace(
        SETTINGS, name="muon", weight_decay=0.0, warmup=0, learning_rate=1.0, clip=0.0, eps=1e-8
    )
    optimizer = make_optimizer(Config(optimizer=settings), AXES)
    params, gradients = (draw(np.random.default_rng(seed), 1.0, size=8) for seed in (0, 1))
    for name in ("experts", "router"):
        gradients[name] += 8 * np.eye(8, dtype=np.float32)  # singular values from 2 to 14

    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)

    for name, x in jax.device_get(updates).items():
        if name in ("experts", "router"):
            singular = np.linalg.svd(x, compute_uv=False) / (0.2 * np.sqrt(8))
            assert ((singular > 0.5) & (singular < 1.3)).all(), name
        else:
            assert np.ptp(abs(x)) < 1e-3, name
