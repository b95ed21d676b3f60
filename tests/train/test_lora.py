"""Adapters: the model begins as it was, the weights beside them never change, and what is saved is
read back merged; the same on any mesh."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import optax
import pytest

from seekjax.config import LoraConfig, SftConfig
from seekjax.model.transformer import Transformer
from seekjax.open import initial_variables, open_model, open_run
from seekjax.placement import use_mesh
from seekjax.post.kinds import training_of
from seekjax.train.loop import fit
from seekjax.train.lora import Adapted, make_spec
from seekjax.train.loss import NextToken
from seekjax.train.state import RunSpec
from seekjax.train.step import BATCH, compile_train, train_step
from sharding.mesh import MeshConfig
from sharding.place import put_batch
from sharding.rules import sharding
from tests.fixtures import save_run

pytestmark = pytest.mark.slow

LORA = LoraConfig(rank=4, alpha=8, experts=True)
RANDOM = np.random.default_rng(0)


def equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def named(tree):
    return {
        "/".join(entry.key for entry in path): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.fixture(scope="module")
def config(tiny):
    config = replace(tiny(None, None), lora=LORA)
    return replace(config, model=replace(config.model, layers=3, dense_layers=1, mtp_depth=1))


@pytest.fixture(scope="module")
def begun(config):
    """A plan and its state on one device, as host arrays, with adapters that do something."""
    with use_mesh(config.mesh):
        plan = make_spec(config)
        state = plan.start()
    busy = jax.tree.map(lambda x: RANDOM.normal(0, 0.1, x.shape).astype(np.float32), state.params)
    return plan, state, busy


def test_the_first_weights_are_those_that_stay(config, begun):
    plan, state, _ = begun
    with use_mesh(config.mesh):
        plain = RunSpec(replace(config, lora=LoraConfig())).start()
    equal(state.frozen["base"], plain.params)
    equal(jax.jit(plan.weights)(state.params, state.frozen), plain.params)


def test_only_matrices_have_adapters_and_only_adapters_have_moments(config, begun):
    _plan, state, _ = begun
    own = set(named(state.params))
    assert {
        "expert_layers/attention/w_uq/a",
        "dense_layers/ffn/w_down/b",
        "expert_layers/ffn/w_gate/a",
        "mtp_1/block/attention/w_o/b",
        "mtp_1/w_token/a",
    } <= own
    assert not any(part in name for name in own for part in ("norm", "embed", "head/", "router"))
    fewer = set(named(make_spec(replace(config, lora=replace(LORA, experts=False))).shape.params))
    assert set(own - fewer) == {
        f"{stack}/ffn/{w}/{x}"
        for stack in ("expert_layers", "mtp_1/block")
        for w in ("w_gate", "w_up", "w_down")
        for x in "ab"
    }
    count, moments = (
        sum(x.size for x in jax.tree.leaves(tree)) for tree in (state.params, state.opt_state)
    )
    assert 2 * count <= moments <= 2 * count + 8
    assert count < 0.5 * sum(x.size for x in jax.tree.leaves(state.frozen["base"]))
    m, r = config.model, LORA.rank
    assert state.params["expert_layers"]["ffn"]["w_gate"]["a"].size == 2 * m.experts * m.embed * r
    assert type(make_spec(replace(config, lora=LoraConfig()))) is RunSpec


def test_merged_weights_are_the_formula(begun):
    plan, state, busy = begun
    base, merged, a_b = (
        named(state.frozen["base"]),
        named(jax.jit(plan.weights)(busy, state.frozen)),
        named(busy),
    )
    scale, sums = (
        LORA.alpha / LORA.rank,
        {
            "expert_layers/attention/w_uq": "lqr,lrhn->lqhn",
            "dense_layers/attention/w_o": "lhur,lrd->lhud",
            "expert_layers/ffn/w_down": "lefr,lerd->lefd",
            "mtp_1/block/attention/w_dkv": "dr,rc->dc",
            "mtp_1/w_hidden": "dr,ra->da",
            "expert_layers/ffn/shared/w_up": "ldr,lrf->ldf",
        },
    )
    for name, how in sums.items():
        np.testing.assert_allclose(
            merged[name],
            base[name] + scale * np.einsum(how, a_b[name + "/a"], a_b[name + "/b"]),
            atol=1e-6,
        )
    for name in base:
        assert (name + "/a" in a_b) != np.array_equal(merged[name], base[name]), name


def test_a_reference_is_a_copy_of_the_adapters(config, begun):
    plan, state = make_spec(config, ("reference",)), begun[1]
    own = jax.eval_shape(plan.begin, state.frozen["base"])
    assert jax.tree.structure(own.frozen["reference"]) == jax.tree.structure(own.params)
    assert own.frozen.keys() == {"reference", "base"}
    assert jax.tree.structure(plan.state_axes().frozen) == jax.tree.structure(own.frozen)


def make_batch():
    tokens = RANDOM.integers(0, 256, (1, 8, 33)).astype(np.int32)
    return {
        "tokens": tokens,
        "segments": np.ones_like(tokens),
        "trained": RANDOM.random(tokens.shape) < 0.5,
    }


@pytest.mark.long
@pytest.mark.mesh
def test_a_step_is_the_same_on_a_mesh(config):
    """Gradients and metrics of data 2 x expert 2 against no mesh at all, in the norm of the
    adapters' tensors; one layer, to compile little."""
    config, batch, found = (
        replace(config, model=replace(config.model, layers=1, dense_layers=0, mtp_depth=0)),
        make_batch(),
        [],
    )
    with use_mesh(config.mesh):
        state = make_spec(config).start()
    busy = jax.tree.map(lambda x: RANDOM.normal(0, 0.1, x.shape).astype(np.float32), state.params)
    host = jax.tree.map(
        np.asarray,
        state.replace(
            params=busy, opt_state=optax.trace(0.0).init(busy), key=jax.random.key_data(state.key)
        ),
    )

    def traced():
        plan = Adapted(config)
        plan.optimizer = optax.trace(0.0)
        return plan, NextToken(plan, np.ones(320, np.int32))

    found.append(jax.jit(partial(train_step, *traced()))(host, batch))
    with use_mesh(MeshConfig(data=2, expert=2), devices=jax.devices()[:4]):
        plan, criterion = traced()
        placed = jax.device_put(host, jax.tree.map(sharding, plan.state_axes()))
        split = placed.params["expert_layers"]["ffn"]["w_gate"]["a"]
        assert split.addressable_shards[0].data.shape[1] == config.model.experts // 2
        found.append(compile_train(plan, criterion)(placed, put_batch(batch, BATCH)))
    (one, seen), (other, also) = [jax.tree.map(np.asarray, part) for part in found]
    assert all(np.abs(x).max() > 1e-7 for x in jax.tree.leaves(one.opt_state.trace))
    for a, b in zip(
        jax.tree.leaves((one.opt_state.trace, seen)),
        jax.tree.leaves((other.opt_state.trace, also)),
        strict=True,
    ):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * max(np.abs(a).max(), 1e-6))


@pytest.fixture(scope="module")
def tuned(tiny, chats, tmp_path_factory):
    home = tmp_path_factory.mktemp("lora")
    config = tiny(
        home / "run",
        SftConfig(chats=(chats,)),
        steps=4,
        save_every=4,
        ema=0.5,
    )
    one = replace(config, model=replace(config.model, layers=1))
    save_run(replace(one, sft=None, out=None), home / "base")
    config = replace(one, lora=LoraConfig(rank=2), init=home / "base")
    return fit(config, training_of(config))


def test_training_leaves_the_weights_and_a_run_is_read_merged(tuned):
    plan, state, config = tuned.parts.spec, tuned.state, tuned.config
    with use_mesh(config.mesh):
        equal(state.frozen["base"], initial_variables(config)["params"])
    assert all(np.abs(np.asarray(x)).max() > 0 for x in jax.tree.leaves(state.params))
    _, read, variables = open_run(tuned.folder)
    assert read.lora == LoraConfig()  # whoever saves these weights again saves whole ones
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        variables["params"],
        jax.jit(plan.weights)(state.ema, state.frozen),
    )
    with use_mesh(MeshConfig(data=4, expert=2)):
        split = open_model(tuned.folder).variables["params"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6),
        split,
        variables["params"],
    )
    assert any("adapters of rank 2" in line for line in tuned.parts.report.header())


def test_logits_of_the_merged_run_are_those_of_the_adapters(tuned):
    plan, state, opened = tuned.parts.spec, tuned.state, open_model(tuned.folder)
    tokens = np.arange(16, dtype=np.int32)[None]
    ours = jax.jit(
        lambda state: (
            plan.model.apply(
                {"params": plan.weights(state.ema, state.frozen), "balance": state.balance}, tokens
            ).hidden_BTD
        )
    )(state)
    theirs = jax.jit(
        lambda v: Transformer(opened.model, opened.kernel).apply(v, tokens).hidden_BTD
    )(opened.variables)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.long
def test_a_run_of_adapters_goes_on_and_can_be_tuned_again(tuned, tmp_path):
    again = fit(tuned.config, training_of(tuned.config))
    equal(again.state.params, tuned.state.params)
    config = replace(
        tuned.config,
        lora=LoraConfig(),
        init=tuned.folder,
        out=tmp_path,
        train=replace(tuned.config.train, steps=1, ema=0.0),
    )
    with use_mesh(config.mesh):
        first = RunSpec(config).start(initial_variables(config))
    equal(first.params, open_model(tuned.folder).variables["params"])
