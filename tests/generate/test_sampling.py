"""The distribution that the settings mean, and that draws have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.errors import GenerateError
from seekjax.generate.sampling import (
    Sampling,
    apply_sampling,
    draw,
    inverse_cdf,
    log_prob,
    position_key,
    sampling_arrays,
)
from seekjax.seeds import row_keys


def plain(logits, sampling):
    """The same distribution, token by token in NumPy."""
    p = np.exp((logits - logits.max()) / sampling.temperature)
    order = np.argsort(-p, kind="stable")
    if sampling.top_k:
        p[order[sampling.top_k :]] = 0
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    drop = (before >= sampling.top_p) | (p[order] < sampling.min_p * p.max())
    p[order[drop]] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.3),
        Sampling(top_k=3),
        Sampling(top_p=0.7),
        Sampling(min_p=0.2),
        Sampling(top_k=1),
        Sampling(top_p=1e-6),
        Sampling(temperature=1.7, top_k=9, top_p=0.8, min_p=0.05),
    ],
    ids=str,
)
def test_the_distribution(sampling):
    logit_BV = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32) * 2
    p_BV = jax.nn.softmax(jax.jit(apply_sampling)(logit_BV, sampling_arrays(sampling)), -1)
    np.testing.assert_allclose(
        p_BV, [plain(row.astype(np.float64), sampling) for row in logit_BV], atol=2e-6
    )


def test_greedy_is_the_first_likeliest():
    logit_BV = jnp.array([[0.0, 2.0, 2.0], [5.0, -1.0, 0.0]])
    left = apply_sampling(logit_BV, sampling_arrays(Sampling(temperature=0)))
    assert np.array_equal(draw(row_keys(0, 2), left), [1, 0])
    assert np.array_equal(np.isfinite(left).sum(-1), [1, 1])


def test_draws_have_their_distribution_and_depend_on_row_position_and_use():
    logit_V = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    key_B = row_keys(1, 20_000)
    here = draw(position_key(key_B, jnp.full(20_000, 7)), jnp.tile(logit_V, (20_000, 1)))
    np.testing.assert_allclose(
        np.bincount(here, minlength=4) / 20_000, [0.1, 0.2, 0.3, 0.4], atol=0.012
    )
    for other in (
        position_key(key_B, jnp.full(20_000, 8)),
        position_key(key_B, jnp.full(20_000, 7), use=1),
    ):
        there = draw(other, jnp.tile(logit_V, (20_000, 1)))
        assert abs(float((here == there).mean()) - 0.3) < 0.015  # independent: sum of squares


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 12, 272, 1000])
def test_draws_are_the_inverse_of_the_cumulative_distribution(size):
    random = np.random.default_rng(size)
    share_BV = np.where(random.random((64, size)) < 0.4, 0, random.random((64, size)))
    share_BV[:, random.integers(size)] += 1e-3  # never nothing at all
    with np.errstate(divide="ignore"):
        logit_BV = np.log(share_BV).astype(np.float32)
    key_B = row_keys(3, 64)
    luck_B = np.asarray(jax.vmap(jax.random.uniform)(key_B), np.float64)
    end_BV = np.cumsum(share_BV / share_BV.sum(-1, keepdims=True), -1)
    drawn_B = np.asarray(draw(key_B, logit_BV))
    row_B = np.arange(64)
    assert (share_BV[row_B, drawn_B] > 0).all()
    assert (luck_B < end_BV[row_B, drawn_B] + 1e-6).all()
    assert (
        luck_B > end_BV[row_B, drawn_B] - share_BV[row_B, drawn_B] / share_BV.sum(-1) - 1e-6
    ).all()


def test_no_number_falls_outside_of_the_intervals():
    share_BX = jnp.array([[0.0, 0.3, 0.0, 0.7, 0.0]] * 5)
    luck_B = jnp.array([0.0, 0.3, 0.99999, 1.0, 2.0])
    index_B, inside_B = inverse_cdf(share_BX, luck_B)
    assert np.array_equal(index_B, [1, 3, 3, 3, 3])
    assert (inside_B >= 0).all()
    assert (inside_B < share_BX[0, index_B]).all()


def test_log_probabilities_are_the_models_own():
    logit_BV = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    np.testing.assert_allclose(
        log_prob(jnp.array(logit_BV), jnp.array([4, 1])),
        jax.nn.log_softmax(logit_BV)[[0, 1], [4, 1]],
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"max_new": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": 1.0},
        {"stop": ("",)},
    ],
    ids=str,
)
def test_settings_that_mean_nothing(fields):
    with pytest.raises(GenerateError, match=f"{next(iter(fields))} is .*: it must be"):
        Sampling(**fields)
