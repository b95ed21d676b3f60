"""Which samples are learnt from: groups with signal, and no sample whose reward failed."""

import math
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.config import GrpoConfig, Objective
from seekjax.config.recipes import RECIPES
from seekjax.post.rl.criterion import GroupRelative
from seekjax.post.rl.objective import Totals, advantages, policy_loss
from seekjax.post.rl.updates import Groups, draw_groups, learnt, leave_out, select_groups
from seekjax.post.rollout.grader import GradedSample
from seekjax.post.rollout.log import summary, tasks_line
from seekjax.post.rollout.problems import TaskProblems
from seekjax.post.rollout.reward import Scored, make_reward
from seekjax.post.rollout.statistics import has_signal
from seekjax.post.tune.report import count_problems
from seekjax.tasks import TASKS, Problem, Problems
from seekjax.tasks.answer import wrap

SUM = Problem("addition", 1, "3+4=", "3+4", {"numbers": [3, 4]})


def graded(text, tokens, weights=(("accuracy", 1.0), ("format", 0.1)), recipe="dapo"):
    """A sample as a grader gives it, with the penalty of a recipe's lengths."""
    reward = make_reward(weights, "en", 20, RECIPES.find(recipe).overlong)
    scored = reward(SUM, text, tokens)
    return GradedSample(
        SUM,
        text,
        scored.total,
        scored.parts,
        scored.reason,
        tokens,
        False,
        scored.error,
        reward.outcome(scored),
    )


RIGHT, WRONG, LONG = wrap("a", "7"), wrap("a", "8"), 20
FAILED = GradedSample(SUM, "", math.nan, {"accuracy": 1.0}, "", 9, True, "own failed")


@pytest.mark.parametrize("recipe", ["dapo", "cispo"])
def test_a_filter_on_right_and_wrong_does_not_see_the_length_penalty(recipe):
    """Groups of two: all wrong, all right, one of each; the first sample of each is overlong."""
    texts = [WRONG, WRONG, RIGHT, RIGHT, RIGHT, WRONG]
    samples = []
    for number, text in enumerate(texts):
        samples.append(graded(text, 5 if number % 2 else LONG, recipe=recipe))
    assert samples[0].reward < samples[1].reward
    objective = RECIPES.find(recipe)
    assert has_signal(samples, 2, objective.resample).tolist() == [False, False, True]
    # An overlong right answer earns what a short wrong one does.
    assert has_signal(samples, 2, outcomes=False).tolist() == [True, True, False]


def test_where_accuracy_does_not_pay_the_reward_before_shaping_decides():
    constant = [
        graded(text, tokens, (("format", 1.0),)) for text in (RIGHT, WRONG) for tokens in (5, LONG)
    ]
    assert not has_signal(constant, 4, outcomes=True).any()
    torn = graded("no form", 5, (("format", 1.0),))
    assert has_signal([*constant[:3], torn], 4, outcomes=True).all()
    reward = make_reward((("accuracy", 1.0),), "en", 20)
    assert math.isnan(reward.outcome(Scored(math.nan, {"accuracy": math.nan}, "", "it failed")))


def test_a_sample_without_a_reward_makes_no_difference():
    right = graded(RIGHT, 5)
    assert not has_signal([right, FAILED, FAILED, FAILED, right, right], 2, False).any()


def test_groups_with_signal_replace_those_without():
    old, new = np.array([False, True, False]), np.array([True, False, True])
    assert select_groups(old, new).tolist() == [3, 1, 5]
    assert select_groups(old, np.zeros(3, bool)).tolist() == [0, 1, 2]


def test_what_was_drawn_tells_how_good_the_policy_is_and_what_has_signal_is_learnt():
    """Three rounds of two groups of two: one group has signal in the first, none in the second,
    both in the third."""
    rounds = [([False, True], 0), ([False, False], 4), ([True, True], 8)]

    def draw_round(number):
        signal, first = rounds[number]
        return Groups(
            {"tokens": jnp.arange(4)[:, None] + first, "choice": jnp.zeros((4, 1))},
            cast(list, [f"text {first + i}" for i in range(4)]),
            np.arange(4.0) + first,
            np.array(signal),
        )

    kept, drawn, drawn_signal_P = draw_groups(draw_round, Objective(resample=True), 2, 3)
    assert kept.texts["tokens"][:, 0].tolist() == [8, 9, 2, 3]
    assert kept.graded == ["text 8", "text 9", "text 2", "text 3"]
    assert kept.advantage_B.tolist() == [8, 9, 2, 3]
    assert kept.signal_P.tolist() == [True, True]
    assert drawn == [f"text {i}" for i in range(12)]
    assert drawn_signal_P.tolist() == [False, True, False, False, True, True]

    kept, drawn, _ = draw_groups(draw_round, Objective(), 2, 3)
    assert kept.graded == drawn == [f"text {i}" for i in range(4)]


def test_what_resampling_could_not_replace_is_left_out_with_what_failed():
    samples = [graded(WRONG, LONG), graded(WRONG, 5), graded(RIGHT, 5), FAILED]
    groups = Groups({}, samples, np.ones(4), np.array([False, True]))
    assert learnt(groups, 2, resample=True).tolist() == [False, False, True, False]
    assert learnt(groups, 2, resample=False).tolist() == [True, True, True, False]


@pytest.mark.parametrize("average", ["sequence", "token", "constant"])
def test_failed_samples_are_in_no_sum_and_no_denominator(average):
    """Two good and two failed samples cost, in value and in gradient, what the good ones alone do;
    the divergence of the failed ones pulls nothing."""
    objective = Objective(average=average, kl=0.5)
    criterion = GroupRelative.__new__(GroupRelative)
    criterion.grpo = GrpoConfig(max_new=5)

    def loss(reward_G):
        """The loss of one group, as an update computes it from its rewards."""
        rows = len(reward_G)
        valid_B = np.isfinite(reward_G)
        advantage_B = advantages(jnp.array([reward_G]), jnp.array([valid_B]), "centred").reshape(-1)
        mask_BT = np.arange(5)[None] < np.arange(2, 2 + rows)[:, None]
        texts = {"segments": jnp.ones((rows, 6), jnp.int32), "mask": jnp.asarray(mask_BT)}
        texts = leave_out(texts, advantage_B, jnp.asarray(valid_B))
        totals = criterion.totals({"tokens": None, "mask": texts["mask"][None]})
        assert texts["segments"].any(1).tolist() == valid_B.tolist()

        rng = np.random.default_rng(0)
        logp_BT, ref_BT = (jnp.asarray(rng.normal(size=(4, 5))[:rows]) for _ in range(2))
        value, metrics = jax.jit(policy_loss, static_argnums=0)(
            objective,
            logp_BT,
            logp_BT - 0.1,
            logp_BT,
            ref_BT,
            texts["advantage"],
            texts["mask"],
            totals,
        )
        return value, metrics.kl / totals.tokens, totals

    good, failed = loss([1.0, 0.0]), loss([1.0, 0.0, math.nan, math.nan])
    assert failed[2] == Totals(tokens=5.0, sequences=2.0, length=5.0)
    assert failed[0] == pytest.approx(float(good[0]), rel=1e-6)
    assert failed[1] == pytest.approx(float(good[1]), rel=1e-6)


def test_figures_are_of_samples_with_a_reward():
    samples = [graded(RIGHT, 4, recipe="grpo"), graded(WRONG, 6, recipe="grpo"), FAILED]
    record = summary(samples)
    assert (record["accuracy"], record["length"], record["truncated"]) == (0.5, 5, 0)
    assert record["failed"] == 1


def test_held_out_problems_are_counted_once():
    problems = TaskProblems(["addition:1"], seed=0)
    keys = [problem.key for problem in problems.distinct_held_out(32)]
    assert len(keys) == len(set(keys)) < 32
    line = tasks_line(["addition:1"], problems, 32)
    assert line == f"addition:1 ({len(keys)} distinct held-out problems, all there are)"
    assert (
        count_problems(Problems(TASKS["addition"], (1,), held_out=False)) == "48 distinct problems"
    )
    many = TaskProblems(["addition:5"], seed=0)
    assert tasks_line(["addition:5"], many, 8) == "addition:5 (8 distinct held-out problems)"
