"""The whole model: cached equals uncached, recomputation changes nothing, and every variant a field
selects runs and learns."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.config import KernelConfig, ModelConfig, RopeConfig
from seekjax.model import count
from seekjax.model.abstract import named_variables
from seekjax.model.attention import attend_absorbed, attend_expanded
from seekjax.model.cache import cache_bytes, empty_cache
from seekjax.model.init import init_params
from seekjax.model.transformer import Transformer, logits
from sharding.place import axes_of, unbox
from tests.fixtures import PLAIN, tiny_model

V3 = tiny_model(vocab=64, layers=3, value=12, init_std=0.2, mtp_depth=0)
VARIANTS = {
    "v3": V3,
    "v2": replace(
        V3,
        scoring="softmax",
        group_score="max",
        renormalise=False,
        route_scale=16.0,
        shared_experts=2,
        context=256,
        rope=RopeConfig(factor=40, original_context=64),
    ),
    "v2-lite": replace(
        V3,
        q_latent=0,
        scoring="softmax",
        group_score="max",
        renormalise=False,
        route_scale=1.0,
        expert_groups=1,
        groups_per_token=1,
    ),
    "moe-16b": replace(V3, attention="mha", nope=0),
    "all dense": replace(V3, dense_layers=3),
    "no dense, no shared": replace(V3, dense_layers=0, shared_experts=0),
}


def build_model(model: ModelConfig, kernel: KernelConfig = PLAIN):
    transformer = Transformer(model, kernel)
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, model.vocab)
    named = named_variables(model)
    shapes = unbox(named)
    variables = {
        "params": init_params(model, shapes["params"], axes_of(named)["params"], 0),
        "balance": jax.tree.map(lambda x: jnp.zeros(x.shape), shapes["balance"]),
    }
    return transformer, variables, tokens


@pytest.mark.slow
@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS)
def test_parts_one_after_another_equal_the_full_forward(model):
    """Three parts, so that one program reads all; tests/generate goes token by token."""
    transformer, variables, tokens = build_model(model)
    run = jax.jit(
        lambda tokens, cache, start: transformer.apply(variables, tokens, cache=cache, start=start)
    )
    full = logits(jax.jit(lambda tokens: transformer.apply(variables, tokens))(tokens))
    cache, parts = empty_cache(model, 2, 12), []
    for i in range(0, 9, 3):
        output = run(tokens[:, i : i + 3], cache, i)
        cache = output.cache
        parts.append(logits(output))
    np.testing.assert_allclose(
        np.concatenate(parts, 1), full, rtol=0, atol=2e-5 * float(jnp.abs(full).max())
    )
    assert cache_bytes(cache) == 2 * 12 * count.cache_bytes(model, element=4)


@pytest.mark.slow
def test_absorbed_and_expanded_decoding_agree():
    transformer, variables, tokens = build_model(V3)

    def decode(attend):
        run = jax.jit(partial(transformer.apply, attend=attend))
        return logits(run(variables, tokens, cache=empty_cache(V3, 2, 9)))

    a, b = decode(attend_expanded), decode(attend_absorbed)
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * float(jnp.abs(a).max()))


@pytest.mark.long
@pytest.mark.slow
def test_recomputation_changes_no_gradient():
    model = replace(V3, layers=2, dense_layers=0, mtp_depth=0)

    def gradient(remat):
        transformer, variables, tokens = build_model(model, replace(PLAIN, remat=remat))

        def loss(params):
            return logits(transformer.apply({**variables, "params": params}, tokens)).var()

        return jax.tree.leaves(jax.jit(jax.grad(loss))(variables["params"]))

    expected = gradient("none")
    for remat in ("product", "latent", "full"):
        for a, b in zip(gradient(remat), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()) + 1e-12)


@pytest.mark.slow
def test_bfloat16_stays_near_float32_and_keeps_the_router_in_float32():
    model = replace(V3, experts=24)  # a size that nothing else has
    transformer, variables, tokens = build_model(model)
    low = Transformer(model, replace(PLAIN, dtype="bfloat16"))
    full = logits(jax.jit(transformer.apply)(variables, tokens))
    traced = jax.jit(low.apply).trace(variables, tokens)
    half = logits(traced.lower().compile()(variables, tokens))
    assert half.dtype == jnp.float32
    assert float(jnp.abs(full - half).mean()) < 0.05 * float(jnp.abs(full).mean())
    text = str(traced.jaxpr)
    assert "f32[2,9,24]" in text
    assert "bf16[2,9,24]" not in text


def test_the_order_of_experts_changes_nothing_visible():
    model = replace(V3, expert_groups=1, groups_per_token=1)
    transformer, variables, tokens = build_model(model)
    order = np.random.default_rng(0).permutation(model.experts)
    ffn = variables["params"]["expert_layers"]["ffn"]
    moved = (
        ffn
        | {name: ffn[name][:, order] for name in ("w_gate", "w_up", "w_down")}
        | {"w_router": ffn["w_router"][..., order]}
    )
    params = variables["params"] | {
        "expert_layers": variables["params"]["expert_layers"] | {"ffn": moved}
    }
    run = jax.jit(transformer.apply)
    a, b = (logits(run({**variables, "params": p}, tokens)) for p in (variables["params"], params))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(jnp.abs(a).max()))


def test_the_bias_moves_choices_and_takes_no_gradient():
    transformer, variables, tokens = build_model(V3)
    pushed = jax.tree.map(lambda bias: bias.at[..., 0].add(100.0), variables["balance"])

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def run(balance):
        output = transformer.apply({**variables, "balance": balance}, tokens)
        return logits(output).sum(), output.balance["expert_layers"]["load_E"]

    _, load = run(pushed)
    assert (np.asarray(load)[:, 0] == tokens.size).all()
    gradient, _ = run(variables["balance"])
    assert all(not np.any(g) for g in jax.tree.leaves(gradient))
