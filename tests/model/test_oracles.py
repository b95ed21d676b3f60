"""The model against the NumPy oracles of tests/reference, which know only the papers."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from seekjax.commands.arguments import load_config
from seekjax.config import KernelConfig, ModelConfig, RopeConfig
from seekjax.model.attention import (
    LatentAttention,
    attend_absorbed,
    attend_expanded,
    attend_visible,
)
from seekjax.model.attention import mla as kinds
from seekjax.model.attention.kind import visible
from seekjax.model.cache import empty_cache
from seekjax.model.experts import MixtureOfExperts
from seekjax.model.mtp import ahead
from seekjax.model.rope import angles, rope_frequencies, rotate, softmax_scale
from seekjax.model.routing import (
    affinity,
    balance_loss,
    count_choices,
    max_violation,
    route,
    sequence_balance,
    update_bias,
)
from sharding.place import unbox
from tests.reference import balance, experts, mla, mtp, routing, yarn

V3 = ModelConfig(
    experts=16, experts_per_token=4, expert_groups=4, groups_per_token=2, route_scale=2.5
)
V2 = replace(V3, scoring="softmax", group_score="max", renormalise=False, route_scale=16.0)


@pytest.fixture
def normal():
    random = np.random.default_rng(0)
    return lambda *shape: random.normal(size=shape).astype(np.float32)


# positions


@pytest.mark.parametrize(
    "rope",
    [
        RopeConfig(factor=40),
        RopeConfig(factor=8, original_context=1024, beta_fast=16, beta_slow=2),
        RopeConfig(base=1e6, factor=4),
    ],
)
@pytest.mark.parametrize("width", [16, 64])
def test_yarn(rope, width):
    model = ModelConfig(nope=32, rotary=width, rope=rope, context=8192)
    expected = yarn.frequencies(
        width, rope.base, rope.factor, rope.original_context, rope.beta_fast, rope.beta_slow
    )
    np.testing.assert_allclose(rope_frequencies(model), expected, rtol=1e-12)
    assert softmax_scale(model, 32 + width) == pytest.approx(
        yarn.softmax_scale(32 + width, rope.factor, rope.mscale_all)
    )


def test_yarn_oracle_moves_between_pairs_10_and_23():
    assert yarn.corrections(64, 10000.0, 4096) == (10, 23)


@pytest.mark.parametrize("context", [4096, 163840])
def test_rotation(normal, context):
    model = ModelConfig(rotary=64, rope=RopeConfig(factor=40), context=context)
    x_BTHR, position_BT = normal(2, 9, 3, 64), np.stack([np.arange(9), np.arange(500, 509)])
    turned_BTHR = rotate(x_BTHR, *angles(model, position_BT))
    turned_BTR = rotate(x_BTHR[:, :, 0], *angles(model, position_BT))
    frequencies = rope_frequencies(model)
    for b in range(2):
        for h in range(3):
            np.testing.assert_allclose(
                turned_BTHR[b, :, h],
                mla.rotate(x_BTHR[b, :, h].astype(float), position_BT[b], frequencies),
                atol=2e-4,
            )
    np.testing.assert_array_equal(turned_BTR, turned_BTHR[:, :, 0])


# routing


@pytest.mark.parametrize("kind", ["plain", "ties"])
@pytest.mark.parametrize(("groups", "limit"), [(4, 2), (8, 3), (4, 4), (1, 1)])
def test_v3_router(normal, groups, limit, kind):
    model = replace(V3, expert_groups=groups, groups_per_token=limit)
    logit_BTE, bias_E = normal(2, 50, 16), normal(16) / 5
    if kind == "ties":  # a few coarse values, so that experts and groups often score the same
        logit_BTE, bias_E = np.round(logit_BTE), np.zeros_like(bias_E)
    choice_BTK, gate_BTK = route(affinity(logit_BTE, model), bias_E, model)
    for b in range(2):
        choice, gate = routing.route_v3(logit_BTE[b], bias_E, groups, limit, 4, 2.5)
        np.testing.assert_array_equal(choice_BTK[b], choice)
        np.testing.assert_allclose(gate_BTK[b], gate, rtol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "ties"])
@pytest.mark.parametrize(("groups", "limit"), [(4, 2), (8, 3), (1, 1)])
def test_v2_router(normal, groups, limit, kind):
    model = replace(V2, expert_groups=groups, groups_per_token=limit)
    logit_BTE = normal(2, 50, 16) if kind == "plain" else np.round(normal(2, 50, 16))
    choice_BTK, gate_BTK = route(affinity(logit_BTE, model), np.zeros(16, np.float32), model)
    for b in range(2):
        choice, gate = routing.route_v2(logit_BTE[b], groups, limit, 4, 16.0)
        np.testing.assert_array_equal(choice_BTK[b], choice)
        np.testing.assert_allclose(gate_BTK[b], gate, rtol=1e-5)


# balance


@pytest.mark.parametrize("model", [V2, V3])
def test_balance_loss(normal, model):
    score_BTE = affinity(normal(3, 20, 16), model)
    choice_BTK = route(score_BTE, normal(16), model)[0]
    expected = [balance.sequence_balance(score_BTE[b], choice_BTK[b]) for b in range(3)]
    np.testing.assert_allclose(sequence_balance(score_BTE, choice_BTK), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["moe_16b", "v2_lite", "v2", "v3"])
def test_the_balance_loss_of_published_configs(normal, name):
    """V3 equation 18 counts the top K of the bare scores, with neither bias nor groups; V2 counts
    the experts that tokens visit, and balances devices and what is sent to them, alpha apart."""
    config = load_config(name)
    kept = ("scoring", "group_score", "balance_choice", "group_balance", "send_balance")
    model = replace(
        V3 if config.model.expert_groups > 1 else replace(V3, expert_groups=1, groups_per_token=1),
        **{field: getattr(config.model, field) for field in kept},
    )
    score_BTE, mask_BT = affinity(normal(2, 20, 16), model), np.ones((2, 20), bool)
    bias_E = normal(16) if name == "v3" else np.zeros(16)
    choice_BTK = route(score_BTE, bias_E, model)[0]

    expected = []
    for score, choice in zip(np.asarray(score_BTE), np.asarray(choice_BTK)):
        if name == "v3":
            bare = [routing.top(list(token), 4) for token in score]
            assert sorted(map(sorted, bare)) != sorted(map(sorted, choice.tolist()))
            loss = 1e-4 * balance.sequence_balance(score, bare)
        else:
            alpha = {"moe_16b": 0.001, "v2_lite": 0.001, "v2": 0.003}[name]
            loss = alpha * balance.sequence_balance(score, choice)
        if name == "v2":
            loss += 0.05 * balance.device_balance(score, choice, 4)
            loss += 0.02 * balance.communication_balance(score, choice, 4, 2)
        expected.append(loss)
    found = config.train.balance_loss * balance_loss(score_BTE, choice_BTK, mask_BT, model)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_balance_loss_leaves_out_masked_tokens(normal):
    score_BTE, mask_BT = (
        affinity(normal(3, 20, 16), V3),
        np.arange(20) < np.array([[20], [13], [1]]),
    )
    choice_BTK = route(score_BTE, np.zeros(16), V3)[0]
    expected = [
        balance.sequence_balance(score_BTE[b][mask_BT[b]], choice_BTK[b][mask_BT[b]])
        for b in range(3)
    ]
    np.testing.assert_allclose(
        sequence_balance(score_BTE, choice_BTK, mask_BT), expected, rtol=1e-5
    )


def test_bias_update_and_violation(normal):
    choice_BTK = route(affinity(normal(3, 20, 16), V3), normal(16), V3)[0]
    load_E = count_choices(choice_BTK, np.ones((3, 20)), 16).sum(0)
    assert load_E.tolist() == balance.loads(choice_BTK, 16)
    np.testing.assert_allclose(
        update_bias(np.zeros(16), load_E, 0.001),
        balance.updated_bias([0] * 16, load_E.tolist(), 0.001),
    )
    assert max_violation(load_E) == pytest.approx(balance.max_violation(load_E.tolist()), rel=1e-6)


# attention

MLA = ModelConfig(
    embed=48,
    heads=3,
    q_latent=24,
    kv_latent=16,
    nope=8,
    rotary=4,
    value=6,
    rope=RopeConfig(factor=40),
    context=8192,
)


def with_random_weights(module, normal, *inputs):
    """The module's variables, every weight normal with the width of its fan-in, norms away from
    one."""
    shapes = unbox(jax.eval_shape(module.init, jax.random.key(0), *inputs))
    return jax.tree.map(
        lambda x: (
            1 + normal(*x.shape) / 4 if x.ndim == 1 else normal(*x.shape) / np.sqrt(x.shape[-2])
        ),
        shapes,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [MLA, replace(MLA, q_latent=0), replace(MLA, context=4096)],
    ids=["yarn", "no query latent", "plain rope"],
)
def test_latent_attention(normal, model):
    """The causal kernel, and the cache read at once or token by token with keys and values formed
    or absorbed, are all the paper's attention."""
    module, x_BTD, positions_BT = (
        LatentAttention(model),
        normal(2, 12, 48),
        np.tile(np.arange(12), (2, 1)),
    )
    cos, sin = angle = jax.device_get(angles(model, positions_BT))
    variables = with_random_weights(module, normal, x_BTD, angle)
    apply = jax.jit(module.apply, static_argnames="attend")
    expected = [
        mla.mla(x, variables["params"], rope_frequencies(model), softmax_scale(model, 12))
        for x in x_BTD
    ]
    np.testing.assert_allclose(apply(variables, x_BTD, angle)[0], expected, atol=2e-5)
    for attend in (attend_expanded, attend_absorbed):
        cache = jax.tree.map(lambda x: x[0], empty_cache(model, 2, 16)["dense_layers"])
        at_once, _ = apply(variables, x_BTD, angle, cache=cache, attend=attend)
        np.testing.assert_allclose(at_once, expected, atol=2e-5)
        for t in range(12):
            now = cos[:, t : t + 1], sin[:, t : t + 1]
            step, cache = apply(
                variables, x_BTD[:, t : t + 1], now, cache=cache, start=t, attend=attend
            )
            np.testing.assert_allclose(step[:, 0], np.array(expected)[:, t], atol=2e-5)


@pytest.mark.parametrize("start", [0, 2, np.array([9, 4])], ids=str)
def test_attention_by_blocks_is_attention(normal, monkeypatch, start):
    """Also where blocks do not divide the cache, and with rows that begin apart."""
    monkeypatch.setattr(kinds, "KEY_BLOCK", 5)
    q = normal(2, 3, 4, 8), normal(2, 3, 4, 6)
    cache = normal(2, 12, 10), normal(2, 12, 6)
    up = normal(10, 4, 8), normal(10, 4, 7)
    mask = visible(3, 12, start)
    expected = attend_expanded(*q, *cache, *up, 0.3, mask)
    np.testing.assert_allclose(attend_visible(*q, *cache, *up, 0.3, mask), expected, atol=2e-5)


def test_a_query_sees_up_to_itself():
    np.testing.assert_array_equal(visible(2, 5, 2)[0, 0], [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(visible(1, 3, np.array([0, 1]))[:, 0, 0], [[1, 0, 0], [1, 1, 0]])


# experts

MIXTURE_KERNELS = (
    KernelConfig(dispatch="dense"),
    KernelConfig(),
    KernelConfig(dispatch="small_batch"),
)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", MIXTURE_KERNELS, ids=["dense", "auto", "small_batch"])
@pytest.mark.parametrize("model", [V2, V3], ids=["V2", "V3"])
def test_mixture_of_experts(normal, model, kernel):
    """Router, gates, routed and shared experts together; V2 fuses two shared experts."""
    model = replace(model, embed=24, expert_hidden=8, shared_experts=2 if model is V2 else 1)
    module, x_BTD, mask_BT = (
        MixtureOfExperts(model, kernel),
        normal(2, 10, 24),
        np.ones((2, 10), bool),
    )
    variables = with_random_weights(module, normal, x_BTD, mask_BT)
    bias_E = normal(16) / 5 if model.scoring == "sigmoid" else np.zeros(16, np.float32)
    variables["balance"]["bias"] = bias_E
    run = jax.jit(module.apply)
    y_BTD, figures = run(variables, x_BTD, mask_BT)
    text_BT = np.arange(20).reshape(2, 10) % 3 > 0
    padded_BTD, padded = run(variables, x_BTD, text_BT)
    w = variables["params"]
    choices, text_choices = [], []
    for b in range(2):
        logits = x_BTD[b].astype(float) @ w["w_router"]
        choice, gate = (
            routing.route_v3(logits, bias_E, 4, 2, 4, 2.5)
            if model.scoring == "sigmoid"
            else routing.route_v2(logits, 4, 2, 4, 16.0)
        )
        routed, shared = (
            [weights[name] for name in ("w_gate", "w_up", "w_down")] for weights in (w, w["shared"])
        )
        expected_TD = experts.mixture(x_BTD[b], choice, gate, routed, shared)
        np.testing.assert_allclose(y_BTD[b], expected_TD, atol=2e-4)
        choices += choice

        # padding has the shared experts alone
        shared_TD = experts.mixture(x_BTD[b], choice, np.zeros_like(gate), routed, shared)
        expected_TD = np.where(text_BT[b][:, None], expected_TD, shared_TD)
        np.testing.assert_allclose(padded_BTD[b], expected_TD, atol=2e-4)
        text_choices += [c for c, is_text in zip(choice, text_BT[b]) if is_text]

    assert figures["load_E"].tolist() == balance.loads(choices, 16)
    assert padded["load_E"].tolist() == balance.loads(text_choices, 16)
    assert figures["dropped"] == padded["dropped"] == 0


# multi-token prediction


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_prediction_modules_are_fed_the_tokens_of_equation_21(depth):
    tokens_BX = np.arange(2 * 10).reshape(2, 10)
    fed_BT = ahead(tokens_BX, depth, 9)
    for position, fed, predicted in mtp.tasks(9, depth):
        np.testing.assert_array_equal(fed_BT[:, position], tokens_BX[:, fed])
        assert predicted == position + depth + 1 <= 9
