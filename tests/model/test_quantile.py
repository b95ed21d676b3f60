"""Quantile balancing against sorted gaps in NumPy, and what it is for: the next step's load."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.config import ModelConfig
from seekjax.errors import ConfigError
from seekjax.model.check import check_model
from seekjax.model.quantile import BINS, cutoffs, gap_histogram, quantile_bias
from seekjax.model.routing import (
    choose,
    count_choices,
    max_violation,
    update_bias,
    within_groups,
)
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig
from sharding.rules import constrain
from tests.fixtures import tiny_model

B, T, E, K = 8, 64, 16, 4
GROUPS = pytest.mark.parametrize(
    ("groups", "limit", "score"), [(1, 1, "max"), (4, 2, "top2"), (4, 2, "max")]
)


def model_of(groups=1, limit=1, score="max"):
    return ModelConfig(
        experts=E,
        experts_per_token=K,
        expert_groups=groups,
        groups_per_token=limit,
        group_score=score,
        bias_update="quantile",
    )


def draw(seed):
    """Scores of which some experts' are higher, a bias, and a mask of most tokens."""
    random = np.random.default_rng(seed)
    logit_BTE = random.normal(size=(B, T, E)) + np.random.default_rng(0).normal(size=E)
    bias_E = random.uniform(-0.2, 0.2, E)
    mask_BT = random.random((B, T)) < 0.9
    score_BTE = 1 / (1 + np.exp(-logit_BTE))
    return score_BTE.astype(np.float32), bias_E.astype(np.float32), mask_BT


def test_without_groups_the_bias_is_the_quantile_of_the_sorted_gaps():
    score_BTE, bias_E, mask_BT = draw(1)
    biased_BTE = score_BTE + bias_E
    cutoff_BT = np.sort(biased_BTE, -1)[..., -K - 1]
    gap_NE = (cutoff_BT[..., None] - score_BTE)[mask_BT]
    expected_E = np.quantile(gap_NE, K / E, axis=0)

    histogram_EN = gap_histogram(score_BTE, bias_E, mask_BT, model_of())
    new_E = quantile_bias(bias_E, histogram_EN, K / E)
    np.testing.assert_array_equal(histogram_EN.sum(-1), mask_BT.sum())
    assert abs(float(new_E.mean())) < 1e-6
    width = (np.ptp(bias_E) + 2) / BINS
    np.testing.assert_allclose(new_E, expected_E - expected_E.mean(), atol=1.5 * width)


@GROUPS
def test_a_token_visits_the_experts_that_exceed_their_cutoff(groups, limit, score):
    """And with a bias that lifts it above the cutoff and the last expert chosen, one more does.

    With groups that is nearly so: the group that opens can have a second expert as good.
    """
    model = model_of(groups, limit, score)
    score_BTE, bias_E, _ = draw(2)
    choice_BTK = np.asarray(choose(score_BTE, bias_E, model))
    visited_BTE = (choice_BTK[..., None] == np.arange(E)).any(-2)
    cutoff_BTE = np.asarray(cutoffs(score_BTE, bias_E, model))
    np.testing.assert_array_equal(visited_BTE, score_BTE + bias_E > cutoff_BTE)

    expert = 5
    best_BTE = np.sort(within_groups(score_BTE + bias_E, model), -1)
    needed_BT = np.maximum(cutoff_BTE[..., expert], best_BTE[..., -K])
    lifted_BTE = np.tile(bias_E, (B, T, 1))
    lifted_BTE[..., expert] = needed_BT - score_BTE[..., expert] + 1e-4
    choice_BTK = choose(score_BTE, lifted_BTE, model)
    share = (choice_BTK == expert).any(-1).mean()
    assert share == 1 if groups == 1 else share > 0.95


@GROUPS
def test_the_next_steps_are_balanced(groups, limit, score):
    """After a dozen steps of new tokens MaxVio is nearly what chance makes; gamma needs more."""
    model = model_of(groups, limit, score)
    mask_BT = np.ones((B, T), bool)

    @jax.jit
    def step(score_BTE, quantile_E, sign_E):
        loads = []
        for bias_E in (quantile_E, sign_E):
            choice_BTK = choose(score_BTE, bias_E, model)
            loads.append(count_choices(choice_BTK, mask_BT, E).sum(0))
        histogram_EN = gap_histogram(score_BTE, quantile_E, mask_BT, model)
        quantile_E = quantile_bias(quantile_E, histogram_EN, K / E)
        return quantile_E, update_bias(sign_E, loads[1], 0.001), [max_violation(x) for x in loads]

    quantile_E = sign_E = jnp.zeros(E)
    for seed in range(12):
        quantile_E, sign_E, violations = step(draw(seed)[0], quantile_E, sign_E)
    by_quantile, by_sign = violations
    assert by_quantile < 0.35
    assert by_sign > 1


def test_no_token_moves_nothing():
    _, bias_E, _ = draw(3)
    np.testing.assert_array_equal(quantile_bias(bias_E, jnp.zeros((E, BINS)), K / E), bias_E)


@pytest.mark.mesh
def test_eight_devices_count_and_choose_what_one_does():
    """And none sees another's scores: counts are summed, tokens stay where they are."""
    score_BTE, bias_E, mask_BT = draw(4)
    model = model_of(4, 2, "top2")

    def both(score_BTE, mask_BT):
        score_BTE = constrain(score_BTE, "batch sequence -")
        mask_BT = constrain(mask_BT, "batch sequence")
        choice_BTK = choose(score_BTE, bias_E, model)
        return gap_histogram(score_BTE, bias_E, mask_BT, model), choice_BTK

    expected_EN, expected_BTK = both(score_BTE, mask_BT)
    with use_mesh(MeshConfig(data=8)):
        program = jax.jit(both).lower(score_BTE, mask_BT).compile()
        found_EN, found_BTK = program(score_BTE, mask_BT)
    np.testing.assert_array_equal(found_EN, expected_EN)
    np.testing.assert_array_equal(found_BTK, expected_BTK)
    assert "all-gather" not in program.as_text()


def test_all_experts_chosen_is_refused():
    with pytest.raises(ConfigError, match="needs experts that are not chosen"):
        check_model(
            tiny_model(
                experts=4,
                experts_per_token=4,
                expert_groups=1,
                groups_per_token=1,
                bias_update="quantile",
            )
        )
