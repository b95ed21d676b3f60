"""Schedules: each published phase has its published value, and the growing batch adds up."""

import importlib

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.config import CONSTANT, Config, DataConfig, OptimizerConfig, Piece, TrainConfig
from seekjax.train.schedule import (
    balance_rate,
    batch_at,
    learning_rate,
    mtp_weight,
    multiplier,
    share_at,
    stairs,
    tokens_at,
)

PUBLISHED = {"moe_16b": 2e12, "v2_lite": 5.7e12, "v2": 8.1e12, "v3": 14.8e12}


def published(name: str) -> Config:
    return importlib.import_module(f"configs.{name}").config


def step_at(config: Config, tokens: float) -> int:
    """The first step that has seen so many tokens."""
    low, high = 0, config.train.steps
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if tokens_at(config, middle) >= tokens else (middle + 1, high)
    return low


@pytest.mark.parametrize(
    ("share", "value"),
    [
        (0, 1),
        (0.2, 1),
        (0.4, 0.868198),
        (0.5, 0.55),
        (0.6, 0.231802),
        (0.7, 0.1),
        (0.75, 0.1),
        (0.9, 0.05),
        (1, 0),
    ],
)
def test_pieces_are_constant_cosine_and_linear(share, value):
    schedule = (
        Piece(until=0.3, to=1.0),
        Piece(until=0.7, to=0.1, shape="cosine"),
        Piece(until=0.8, to=0.1),
        Piece(until=1.0, to=0.0, shape="linear"),
    )
    np.testing.assert_allclose(multiplier(schedule, share), value, atol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda x: multiplier(schedule, x))(share), value, atol=1e-6)
    assert multiplier(schedule, share).dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_steps_see_the_published_tokens(name):
    """MoE-16B states its 106,449 steps, which see 2.009T; the others state their tokens, met to
    half a step."""
    config = published(name)
    tokens = tokens_at(config, config.train.steps)
    assert tokens == sum(batch_at(config.train, step) for step in range(config.train.steps)) * 4096
    assert tokens == pytest.approx(PUBLISHED[name], rel=5e-3 if name == "moe_16b" else 1.1e-5)


@pytest.mark.parametrize(
    ("name", "first", "last", "over"), [("v2", 2304, 9216, 225e9), ("v3", 3072, 15360, 469e9)]
)
def test_batch_grows_with_the_tokens_seen(name, first, last, over):
    config = published(name)

    def line(step):
        return first + (last - first) * min(tokens_at(config, step) / over, 1)

    sizes = [batch_at(config.train, step) for step in range(0, config.train.steps, 7)]
    assert sizes[0] == first
    assert sizes[-1] == last
    assert sizes == sorted(sizes)
    unit = config.train.micro_batch
    assert all(size % unit == 0 for size in sizes)
    assert all(abs(size - line(7 * i)) <= 0.51 * unit for i, size in enumerate(sizes))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 3000),
    unit=st.integers(1, 8),
    start=st.integers(1, 8),
    rise=st.integers(0, 20),
    ramp=st.floats(0, 1),
)
def test_stairs_add_up(steps, unit, start, rise, ramp):
    config = Config(
        train=TrainConfig(
            steps=steps,
            batch=unit * (start + rise),
            micro_batch=unit,
            batch_start=unit * start,
            batch_ramp=ramp,
        )
    )
    seen = (
        np.cumsum([0, *(batch_at(config.train, step) for step in range(steps))])
        * config.data.sequence
    )
    probe = {0, steps, steps // 2, *(row[0] for row in stairs(config.train) if row[0] <= steps)}
    assert all(tokens_at(config, step) == seen[step] for step in probe)
    share = share_at(config)
    np.testing.assert_allclose(
        [share(step) for step in probe], [seen[step] / seen[-1] for step in probe], atol=1e-6
    )


def test_share_of_a_traced_step_is_exact_along_the_ramp():
    config = published("v3")
    steps = np.arange(0, config.train.steps, 997)
    exact = [tokens_at(config, int(step)) / tokens_at(config, config.train.steps) for step in steps]
    np.testing.assert_allclose(jax.jit(jax.vmap(share_at(config)))(steps), exact, atol=1e-6)


def test_batch_of_no_whole_micro_batches_is_refused():
    with pytest.raises(ValueError, match=r"multiples of train.micro_batch 8"):
        batch_at(TrainConfig(batch=32, micro_batch=8, batch_start=12), 0)


@pytest.mark.parametrize(
    ("tokens", "rate"),
    [
        (10e12, 2.2e-4),
        (12.15e12, 1.21e-4),
        (14.3e12, 2.2e-5),
        (14.5e12, 2.2e-5),
        (14.634e12, 7.3e-6),
        (14.8e12, 7.3e-6),
    ],
)
def test_v3_learning_rate(tokens, rate):
    """V3 section 4.2: constant to 10T, cosine over 4.3T to 2.2e-5, constant for 333B, 7.3e-6 for
    the last 167B."""
    config = published("v3")
    assert float(learning_rate(config)(step_at(config, tokens))) == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "peak", "drops"),
    [("moe_16b", 4.2e-4, (0.8, 0.9)), ("v2_lite", 4.2e-4, (0.8, 0.9)), ("v2", 2.4e-4, (0.6, 0.9))],
)
def test_v2_learning_rate_drops_twice(name, peak, drops):
    """V2 section 3.1.2 and appendix B, DeepSeekMoE section 5.1: two times 0.316."""
    config = published(name)
    tokens = tokens_at(config, config.train.steps)
    rates = [
        float(learning_rate(config)(step_at(config, (drop + side) * tokens)))
        for drop in drops
        for side in (-1e-3, 1e-3)
    ]
    np.testing.assert_allclose(rates, peak * np.array([1, 0.316, 0.316, 0.316**2]), rtol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_warm_up_is_linear_over_2000_steps(name):
    config = published(name)
    rates = np.array([learning_rate(config)(step) for step in (0, 999, 1999, 2000)])
    np.testing.assert_allclose(
        rates / config.optimizer.learning_rate, [1 / 2000, 0.5, 1, 1], rtol=1e-5
    )


def test_where_nothing_moves_a_longer_run_has_the_same_program():
    def program(steps, schedule):
        optimizer = OptimizerConfig(warmup=5, schedule=schedule)
        config = Config(optimizer=optimizer, train=TrainConfig(steps=steps))
        return jax.jit(learning_rate(config)).lower(0).as_text()

    assert program(10, CONSTANT) == program(40, CONSTANT)
    falling = (Piece(until=1.0, to=0.1, shape="cosine"),)
    assert program(10, falling) != program(40, falling)


def test_no_warm_up_starts_at_the_peak():
    config = Config(
        optimizer=OptimizerConfig(warmup=0, learning_rate=0.5, schedule=CONSTANT),
        data=DataConfig(),
    )
    assert learning_rate(config)(0) == 0.5


def test_v3_bias_rate_and_mtp_weight():
    """V3 section 4.2: gamma 0.001 for 14.3T tokens, then 0; lambda 0.3 for 10T tokens, then 0.1."""
    config = published("v3")
    gamma, weight = jax.jit(balance_rate(config)), jax.jit(mtp_weight(config))
    before, after = (
        (lambda tokens: step_at(config, tokens - 1e9)),
        (lambda tokens: step_at(config, tokens + 1e9)),
    )
    np.testing.assert_allclose(
        [gamma(0), gamma(before(14.3e12)), gamma(after(14.3e12))], [0.001, 0.001, 0], rtol=1e-6
    )
    np.testing.assert_allclose(
        [weight(0), weight(before(10e12)), weight(after(10e12))], [0.3, 0.3, 0.1], rtol=1e-6
    )


def test_v2_models_move_no_bias():
    assert all(balance_rate(published(name))(5000) == 0 for name in ("moe_16b", "v2_lite", "v2"))
