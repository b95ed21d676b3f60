"""The objectives against plain loops straight from the papers (tests/reference/grpo.py), and what
must hold whatever the numbers are."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.sharding import NamedSharding, PartitionSpec

from seekjax.config.recipes import RECIPES
from seekjax.post.rl.objective import (
    Metrics,
    Objective,
    Totals,
    advantages,
    kl_estimate,
    policy_loss,
)
from tests.reference import grpo as reference

P, G, T = 2, 4, 5
B = P * G
LENGTH = 7  # the longest completion allowed; no sequence reaches it
named = pytest.mark.parametrize("name", RECIPES)
few = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)


@cache
def compiled(objective):
    """Loss, metrics and gradient of one objective, compiled once for each number of sequences."""
    return jax.jit(
        jax.value_and_grad(lambda logp, *rest: policy_loss(objective, logp, *rest), has_aux=True)
    )


@cache
def group_advantages(how):
    return jax.jit(lambda reward, valid: advantages(reward, valid, how))


def batch(seed, off=0.3):
    """Random log-probabilities, `off` nats from one another, lengths of 1 to T tokens and rewards
    that differ in each group."""
    rng = np.random.default_rng(seed)
    logp = -rng.exponential(1.5, (B, T)).astype(np.float32)
    old, sampler, ref = (logp + off * rng.normal(size=(B, T)).astype(np.float32) for _ in range(3))
    mask = np.arange(T) < rng.integers(1, T + 1, B)[:, None]
    reward = rng.integers(0, 2, (P, G)).astype(np.float32)
    reward[:, :2] = 0, 1
    reward[0, 2:] = 0.5  # no better and no worse than their group
    return {
        "logp": logp,
        "old": old,
        "sampler": sampler + (rng.random((B, 1)) < 0.5).astype(np.float32),
        "ref": ref,
        "mask": mask,
        "reward": reward,
    }


def run(objective, data, rows=slice(None), put=lambda x: x):
    """((loss, metrics), gradient [B, T]) of some rows' share in the loss of all."""
    judge = group_advantages(objective.advantage)
    advantage = judge(data["reward"], np.ones((P, G), bool)).reshape(B)
    totals = Totals(np.float32(data["mask"].sum()), np.float32(B), LENGTH)
    arrays_ = [put(jnp.asarray(data[name][rows])) for name in ("logp", "old", "sampler", "ref")]
    return compiled(objective)(
        *arrays_, put(advantage[rows]), put(jnp.asarray(data["mask"][rows])), totals
    )


def groups(data):
    """The same batch for the plain loops."""

    def output(b):
        tokens = {
            name: [float(x) for x in data[name][b][data["mask"][b]]]
            for name in ("logp", "old", "sampler", "ref")
        }
        return tokens | {
            "new": list(tokens["logp"]),
            "at": tokens["logp"],
            "reward": float(data["reward"].reshape(-1)[b]),
        }

    return [[output(p * G + g) for g in range(G)] for p in range(P)]


@named
@pytest.mark.parametrize(
    "off", [2.0, 0.3, 6e-4]
)  # nats: beyond R1's clip, about the usual one, about GSPO's
def test_recipes_are_the_papers(name, off):
    data = batch(3, off)
    (loss, metrics), gradient = run(RECIPES[name], data)
    plain, expected = groups(data), np.zeros((B, T))
    np.testing.assert_allclose(loss, reference.LOSS[name](plain, LENGTH), rtol=1e-4, atol=1e-6)
    slopes = reference.gradient(reference.LOSS[name], plain, LENGTH)
    expected[data["mask"]] = [slope for group in slopes for output in group for slope in output]
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=3e-6)
    reaches = {"r1": 2.0, "cispo": 2.0, "gspo": 6e-4}.get(name, 0.3)
    assert (metrics.clip_high > 0) == (off >= reaches)
    assert metrics.clip_high < metrics.tokens
    drift = np.where(data["mask"], data["sampler"] - data["logp"], 0).sum(1) / data["mask"].sum(1)
    worse, even = (
        data["reward"].reshape(B) < data["reward"].mean(1).repeat(G),
        data["reward"].reshape(B) == 0.5,
    )
    assert off == 2 or (even & (drift > 0.5)).any()
    assert metrics.masked == (worse & (drift > 0.5)).sum() * (name == "v3_2")


def test_constants_are_the_papers():
    table = {
        name: (
            r.advantage,
            r.ratio,
            r.surrogate,
            r.clip_low,
            r.clip_high,
            r.kl,
            r.kl_form if r.kl else "",
            r.average,
        )
        for name, r in RECIPES.items()
    }
    assert table == {
        "grpo": ("standardised", "token", "clipped", 0.2, 0.2, 0.04, "k3", "sequence"),
        "r1": ("standardised", "token", "clipped", 10, 10, 0.001, "k3", "sequence"),
        "v3_2": ("centred", "token", "clipped", 0.2, 0.2, 0.001, "unbiased", "sequence"),
        "dr_grpo": ("centred", "token", "clipped", 0.2, 0.2, 0, "", "constant"),
        "dapo": ("standardised", "token", "clipped", 0.2, 0.28, 0, "", "token"),
        "gspo": ("standardised", "sequence", "clipped", 3e-4, 4e-4, 0, "", "sequence"),
        "cispo": ("standardised", "token", "cispo", 1, 4, 0, "", "token"),
    }
    assert {name for name, r in RECIPES.items() if r.resample and r.overlong == 4096 / 20480} == {
        "dapo",
        "cispo",
    }
    assert [
        name for name, r in RECIPES.items() if r.mask_ratio or r.keep_routing or r.keep_mask
    ] == ["v3_2"]
    assert RECIPES["v3_2"] == Objective()
    assert not any(r.truncate for r in RECIPES.values())


# One token of five words. Any policy and this gradient fix the reference: log pi/ref = gradient /
# pi + KL, KL what makes the reference sum to 1.
EXACT = np.array([0.0895, -0.1163, -0.0675, 0.2386, -0.1443])
POLICY = np.array([0.25, 0.15, 0.2, 0.3, 0.1])
DIVERGENCE = np.log((POLICY * np.exp(-EXACT / POLICY)).sum())
REF = POLICY * np.exp(-EXACT / POLICY - DIVERGENCE)
OTHER = np.array([0.1, 0.3, 0.25, 0.15, 0.2])  # an older policy that drew the tokens


@cache
def enumerated(form):
    """Value, and gradient by the policy's logits, of the estimate's mean over all five tokens as
    pi_old draws them."""

    def mean(theta, old):
        logp = jax.nn.log_softmax(theta)
        return (
            old * kl_estimate(form, logp, jnp.log(jnp.asarray(REF, jnp.float32)), jnp.log(old))
        ).sum()

    return jax.jit(jax.value_and_grad(mean))


@cache
def exact(backward):
    """KL(pi || ref), or KL(ref || pi), and its gradient by autodiff."""

    def divergence(theta):
        logp, logq = jax.nn.log_softmax(theta), jnp.log(jnp.asarray(REF, jnp.float32))
        return (
            (jnp.exp(logq) * (logq - logp)).sum()
            if backward
            else (jnp.exp(logp) * (logp - logq)).sum()
        )

    return jax.value_and_grad(divergence)(jnp.log(jnp.asarray(POLICY, jnp.float32)))


@pytest.mark.parametrize(
    ("form", "value", "slope"),
    [
        ("k1", "exact", "zero"),  # wrong: teaches nothing
        ("k2", "biased", "exact"),
        ("k3", "exact", "backward"),  # wrong: the gradient of KL(ref || pi)
        ("unbiased", "exact", "exact"),
    ],
)
def test_estimators(form, value, slope):
    (divergence, forward), (_, backward) = exact(False), exact(True)
    np.testing.assert_allclose(forward, EXACT, atol=1e-6)
    np.testing.assert_allclose(divergence, DIVERGENCE, rtol=1e-5)
    assert np.abs(forward - backward).max() > 0.02
    mean, gradient = enumerated(form)(
        jnp.log(jnp.asarray(POLICY, jnp.float32)), jnp.asarray(POLICY, jnp.float32)
    )
    assert np.isclose(mean, DIVERGENCE, rtol=1e-5) == (value == "exact")
    np.testing.assert_allclose(
        gradient, {"zero": np.zeros(5), "exact": EXACT, "backward": backward}[slope], atol=1e-6
    )


@pytest.mark.parametrize("form", ["k1", "k2", "k3", "unbiased"])
def test_only_the_unbiased_form_outlives_its_rollout(form):
    mean, gradient = enumerated(form)(
        jnp.log(jnp.asarray(POLICY, jnp.float32)), jnp.asarray(OTHER, jnp.float32)
    )
    assert (
        np.allclose(gradient, EXACT, atol=1e-6)
        == (form == "unbiased")
        == np.isclose(mean, DIVERGENCE, rtol=1e-4)
    )


@named
def test_on_policy_the_ratio_is_one_and_the_gradient_is_the_policy_gradient(name):
    objective = replace(RECIPES[name], kl=0.0)
    data = batch(5)
    data |= {"old": data["logp"], "sampler": data["logp"]}
    (_, metrics), gradient = run(objective, data)
    assert metrics.ratio == metrics.tokens == data["mask"].sum()
    assert metrics.log_ratio == metrics.gap == metrics.clip_low == metrics.clip_high == 0
    how = reference.standardised if objective.advantage == "standardised" else reference.centred
    advantage = np.concatenate(
        [how([{"reward": float(r)} for r in row]) for row in data["reward"]]
    )[:, None]
    divisor = {
        "sequence": B * data["mask"].sum(1, keepdims=True),
        "token": data["mask"].sum(),
        "constant": B * LENGTH,
    }[objective.average]
    np.testing.assert_allclose(gradient, -advantage * data["mask"] / divisor, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
@named
@few
@given(seed=seeds)
def test_micro_batches_sum_to_the_whole(name, seed):
    data = batch(seed)
    (loss, metrics), gradient = run(RECIPES[name], data)
    (loss_a, metrics_a), gradient_a = run(RECIPES[name], data, slice(0, 4))
    (loss_b, metrics_b), gradient_b = run(RECIPES[name], data, slice(4, 8))
    np.testing.assert_allclose(loss_a + loss_b, loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        np.concatenate([gradient_a, gradient_b]), gradient, rtol=1e-5, atol=1e-7
    )
    for field, a, b, whole in zip(metrics._fields, metrics_a, metrics_b, metrics, strict=True):
        np.testing.assert_allclose(
            max(a, b) if field == "gap" else a + b, whole, rtol=1e-5, atol=1e-5, err_msg=field
        )


@pytest.mark.slow
@pytest.mark.mesh
def test_eight_devices_agree_with_one():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    put = lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))  # noqa: E731
    (loss, metrics), gradient = run(RECIPES["v3_2"], batch(7))
    (spread, seen), slopes = run(RECIPES["v3_2"], batch(7), put=put)
    np.testing.assert_allclose(spread, loss, rtol=1e-6)
    np.testing.assert_allclose(slopes, gradient, rtol=1e-6)
    np.testing.assert_allclose(Metrics(*seen), Metrics(*metrics), rtol=1e-6)


@named
@few
@given(seed=seeds, junk=st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
def test_padding_may_hold_anything(name, seed, junk):
    clean = batch(seed)
    dirty = clean | {
        key: np.where(clean["mask"], clean[key], np.float32(junk))
        for key in ("logp", "old", "sampler", "ref")
    }
    for one, other in zip(
        jax.tree.leaves(run(RECIPES[name], clean)),
        jax.tree.leaves(run(RECIPES[name], dirty)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@named
def test_equal_rewards_teach_nothing_at_all(name):
    data = batch(11) | {"reward": np.full((P, G), 0.1, np.float32)}
    data["old"] = data["logp"] - 200  # ratios that would overflow
    (loss, _), gradient = run(replace(RECIPES[name], kl=0.0), data)
    assert loss == 0
    assert not np.asarray(gradient).any()


def test_gspo_weighs_all_tokens_of_a_sequence_alike():
    objective = replace(RECIPES["gspo"], clip_low=1.0, clip_high=100.0)
    data = batch(13)
    _, gradient = run(objective, data)
    advantage = np.concatenate(
        [reference.standardised([{"reward": float(r)} for r in row]) for row in data["reward"]]
    )
    for b in range(B):
        n = data["mask"][b].sum()
        s = np.exp(
            (data["logp"] - data["old"])[b, :n].astype(np.float64).mean()
        )  # equation 10: 1/G s_i A_i 1/|o_i| sum_t grad log pi
        np.testing.assert_allclose(gradient[b, :n], -s * advantage[b] / n / B, rtol=2e-5)


def test_correction_weighs_each_token_by_the_capped_ratio_to_the_sampler():
    objective = replace(RECIPES["r1"], kl=0.01, truncate=1.2)
    data = batch(17)
    (_, plain), before = run(replace(objective, truncate=0.0), data)
    _, after = run(objective, data)
    weight = np.minimum(np.exp(data["old"] - data["sampler"]), 1.2)
    assert (weight == 1.2).any()
    assert (weight < 1.2).any()
    np.testing.assert_allclose(after, before * weight, rtol=1e-5)
    np.testing.assert_allclose(
        plain.gap, np.abs(np.where(data["mask"], data["old"] - data["sampler"], 0)).max(), rtol=1e-6
    )


def test_metrics_are_what_they_say():
    objective, data = RECIPES["dapo"], batch(19)
    (_, seen), gradient = run(objective, data)
    ratio, mask = np.exp(data["logp"] - data["old"]), data["mask"]
    advantage = data["reward"].reshape(B, 1) - data["reward"].mean(1).repeat(G)[:, None]
    low, high = mask & (ratio < 0.8) & (advantage < 0), mask & (ratio > 1.28) & (advantage > 0)
    assert low.any()
    assert high.any()
    assert (seen.clip_low, seen.clip_high, seen.tokens) == (low.sum(), high.sum(), mask.sum())
    np.testing.assert_array_equal(
        np.asarray(gradient) == 0, low | high | ~mask | (advantage == 0)
    )  # held tokens teach nothing, all others something
    away = (data["ref"] - data["logp"])[mask].astype(np.float64)
    np.testing.assert_allclose(seen.kl, (np.exp(away) - away - 1).sum(), rtol=1e-5)
    np.testing.assert_allclose(
        (seen.ratio, seen.log_ratio), (ratio[mask].sum(), np.log(ratio[mask]).sum()), rtol=1e-4
    )


rewards = arrays(np.float32, (P, G), elements=st.floats(-4, 4, width=16))


@pytest.mark.parametrize("how", ["standardised", "centred"])
@few
@given(reward=rewards, valid=arrays(bool, (P, G)), failed=arrays(bool, (P, G)))
def test_advantages_are_within_groups_of_what_was_judged(how, reward, valid, failed):
    seen = np.asarray(group_advantages(how)(np.where(failed, np.nan, reward), valid))
    assert seen.dtype == np.float32
    for row, judged, got in zip(reward.astype(np.float64), valid & ~failed, seen, strict=True):
        assert not got[~judged].any()
        kept = row[judged]
        if len(kept) < 2 or (kept == kept[0]).all():
            assert not got.any()
            continue
        std = kept.std(ddof=1) + 1e-6 if how == "standardised" else 1
        np.testing.assert_allclose(got[judged], (kept - kept.mean()) / std, rtol=1e-4, atol=1e-5)


def test_groups_that_teach_nothing_have_no_advantage():
    reward = jnp.array(
        [[0, 0, 0, 0], [0.9, 0.9, 0.9, np.nan], [0, 0.5, 0.5, 1], [1, 1, 1, 0]]
    )  # in float32 0.9 is not the mean of three 0.9
    for how in ("standardised", "centred"):
        assert (np.asarray(advantages(reward, jnp.ones_like(reward, bool), how)) != 0).any(
            1
        ).tolist() == [False, False, True, True]


def test_nonsense_is_refused_in_a_sentence():
    row = jnp.zeros((1, 2))
    with pytest.raises(ValueError, match="needs log-probabilities of a reference"):
        policy_loss(Objective(), row, row, row, None, jnp.zeros(1), row == 0, Totals(2, 1, 2))
    with pytest.raises(ValueError, match="choose k1, k2, k3 or unbiased"):
        kl_estimate("k4", row, row, row)
    (loss, seen), _ = compiled(RECIPES["dapo"])(
        row, row, row, None, jnp.ones(1), row == 0, Totals(2.0, 1.0, 2)
    )
    assert loss == -1
    assert seen.kl is None
