"""Preference tuning against the paper's formulas in NumPy, its pairs kept whole, and a run that
learns what was preferred."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.config import DataConfig, DpoConfig, LoraConfig
from seekjax.data import DataError, load_tokenizer
from seekjax.data.chat import BUILT_IN, compile_chat
from seekjax.errors import ConfigError
from seekjax.model.transformer import logits
from seekjax.placement import use_mesh
from seekjax.post.kinds import training_of
from seekjax.post.samples.pairs import load_pairs, pair_batches
from seekjax.post.samples.template import ChatFormat
from seekjax.post.tune.dpo import Pairwise, margin
from seekjax.train import metrics
from seekjax.train.loop import fit
from seekjax.train.lora import make_spec
from tests.fixtures import write_rows

TOKENIZER = load_tokenizer(DataConfig(tokenizer="byte"), 320, None)
FORM = ChatFormat(compile_chat(BUILT_IN["v3"]), TOKENIZER)


def write(folder, *rows):
    return str(write_rows(folder / "pairs.jsonl", rows))


def good(n):
    return {"prompt": f"{n}?", "chosen": f"yes {n}", "rejected": "no"}


def reference_loss(logp, ref, mask, beta):
    """Loss of each pair and its gradient with respect to logp, pair by pair and token by token
    (2305.18290, equation 7 and what follows it)."""
    losses, slope = [], np.zeros_like(logp)
    for row in range(0, len(logp), 2):
        reward = [
            beta * sum(logp[r, t] - ref[r, t] for t in range(logp.shape[1]) if mask[r, t])
            for r in (row, row + 1)
        ]
        wrong = 1 / (
            1 + np.exp(reward[0] - reward[1])
        )  # sigmoid(r_l - r_w): how wrong the implicit reward is
        # -log sigmoid(r_w - r_l), exact where the pair is all wrong
        losses.append(np.logaddexp(0, reward[1] - reward[0]))
        for r, sign in ((row, -1), (row + 1, 1)):
            slope[r] = sign * beta * wrong * mask[r]
    return np.array(losses), slope


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 2.0), st.floats(0.1, 1.0))
def test_loss_and_gradient_are_the_papers(seed, beta, share):
    random = np.random.default_rng(seed)
    logp, ref = -random.exponential(2.0, (2, 8, 6)).astype(np.float32)
    mask = random.random(logp.shape) < share
    losses, slope = reference_loss(logp.astype(np.float64), ref, mask, beta)
    (_, found), gradient = loss_and_gradient(logp, ref, mask, beta)
    np.testing.assert_allclose(found, losses, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-5)


@jax.jit
@partial(jax.value_and_grad, has_aux=True)
def loss_and_gradient(logp, ref, mask, beta):
    losses = margin(logp, ref, mask).loss(beta)
    return losses.sum(), losses


@pytest.fixture(scope="module")
def tuned(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dpo")
    config = tiny(
        folder / "run",
        dpo=DpoConfig(pairs=(write(folder, *map(good, range(20))),)),
        micro_batch=2,
        steps=8,
        eval_batches=8,
        ema=0.5,
    )
    config = replace(
        config,
        model=replace(config.model, layers=1),
        data=replace(config.data, sequence=32),
        optimizer=replace(config.optimizer, learning_rate=3e-3, weight_decay=0.0),
    )
    return fit(config, training_of(config))


@pytest.mark.slow
def test_a_run_learns_what_was_preferred(tuned):
    records = metrics.read(tuned.folder)
    train, held = ([r for r in records if r["split"] == split] for split in ("train", "held_out"))
    assert np.isclose(train[0]["loss"], np.log(2), atol=1e-5)
    assert train[0]["accuracy"] == 0.5
    assert train[0]["pairs"] == 2
    assert train[-1]["loss"] < 0.6
    assert held[-1]["accuracy"] == 1
    assert held[-1]["margin"] > 0.2
    assert np.isclose(
        held[-1]["margin"], held[-1]["reward_chosen"] - held[-1]["reward_rejected"], atol=1e-5
    )
    again = fit(tuned.config, training_of(tuned.config))
    jax.tree.map(np.testing.assert_array_equal, again.state.frozen, tuned.state.frozen)
    assert any(
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(
            jax.tree.leaves(tuned.state.frozen["reference"]), jax.tree.leaves(tuned.state.params)
        )
    )


@pytest.mark.slow
def test_a_step_is_the_formula_on_the_models_own_logits(tuned):
    """Sums of log-softmax over the answers' tokens alone, by NumPy, under policy and reference; two
    micro-batches or one."""
    spec, state, beta = tuned.parts.spec, tuned.state, tuned.config.dpo.beta
    with use_mesh(tuned.config.mesh):
        pieces = tuned.parts.source.batch(0, state)
    batch = {name: np.asarray(x).reshape(4, -1) for name, x in pieces.items()}
    forward = jax.jit(
        lambda params: logits(
            spec.model.apply({"params": params, "balance": state.balance}, batch["tokens"][:, :-1])
        )
    )
    logp = []
    for params in (state.params, state.frozen["reference"]):
        whole = np.asarray(forward(params), np.float64)
        whole -= np.log(
            np.exp(whole - whole.max(-1, keepdims=True)).sum(-1, keepdims=True)
        ) + whole.max(-1, keepdims=True)
        logp.append(np.take_along_axis(whole, batch["tokens"][:, 1:, None], -1)[..., 0])
    losses, _ = reference_loss(*logp, batch["trained"][:, 1:], beta)
    criterion = Pairwise(spec, beta)
    whole = jax.jit(lambda state, batch: criterion.loss(state.params, state, batch, 2.0)[1]["loss"])
    np.testing.assert_allclose(whole(state, batch), losses.mean(), rtol=1e-4)

    # the run's own step, which takes the arrays that it is given
    copy = jax.tree.map(lambda x: jax.device_put(np.array(x), x.sharding), state.replace(key=None))
    with use_mesh(tuned.config.mesh):
        _, metrics = tuned.parts.step(copy.replace(key=jax.random.clone(state.key)), pieces)
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-4)


@pytest.mark.slow
def test_a_run_ends_with_its_picture(tuned):
    assert "preference.png" in tuned.parts.report.finish(tuned.state, tuned.folder)[0]
    assert (tuned.folder / "preference.png").stat().st_size > 5000


@pytest.mark.slow
def test_pairs_lie_side_by_side_with_one_prompt(tuned):
    seen = next(pair_batches(tuned.training.corpus, 6, 0, {}, 0, 1))
    for chosen, rejected, said, other in zip(
        seen["tokens"][::2], seen["tokens"][1::2], seen["trained"][::2], seen["trained"][1::2]
    ):
        begin = said.argmax()
        assert begin == other.argmax()
        assert (chosen[:begin] == rejected[:begin]).all()
        assert TOKENIZER.decode(chosen[said]).startswith("yes")
        assert TOKENIZER.decode(rejected[other]) == "no"
        assert chosen[said][-1] == rejected[other][-1] == TOKENIZER.eos
    assert not seen["trained"][seen["segments"] == 0].any()


@pytest.mark.slow
def test_with_adapters_the_reference_is_the_frozen_weights(tuned):
    """Adapters at zero are the reference: every pair costs log 2, and nothing as large as the model
    is kept for it."""
    spec = make_spec(
        replace(tuned.config, lora=LoraConfig(rank=2), train=replace(tuned.config.train, ema=0.0)),
        ("reference",),
    )
    state = jax.jit(spec.begin)(tuned.state.params)
    batch = next(pair_batches(tuned.training.corpus, 2, 0, {}, 0, 1))
    sums, _ = jax.jit(Pairwise(spec, 0.1).figures)(state.params, state, batch)
    assert np.isclose(sums["loss"], np.log(2))
    assert sums["accuracy"] == 0.5
    assert sum(x.size for x in jax.tree.leaves(state.frozen["reference"])) < 0.3 * sum(
        x.size for x in jax.tree.leaves(state.frozen["base"])
    )


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"chosen": "a", "rejected": "b"}, 'either "prompt"'),
        ({**good(1), "messages": []}, 'either "prompt"'),
        ({**good(1), "chosen": ["a"]}, "chosen, is a list"),
        ({"prompt": "x", "chosen": "a"}, "rejected, is missing"),
        ({**good(1), "rejected": "yes 1"}, "prefers an answer to itself"),
        ({**good(1), "prompt": 3}, "not text"),
        (
            {"messages": [{"role": "assistant", "content": "x"}], "chosen": "a", "rejected": "b"},
            "ends with an answer",
        ),
        ({**good(1), "chosen": "x" * 300}, "data.sequence 64"),
        ("{", "not valid JSON"),
    ],
)
def test_a_faulty_row_is_named_with_its_line(tiny, tmp_path, row, says):
    dpo = DpoConfig(pairs=(write(tmp_path, good(0), row),))
    with pytest.raises(DataError, match="line 2") as error:
        load_pairs(dpo, tiny(None).data, FORM)
    assert says in str(error.value)


def test_settings_that_do_not_fit_are_refused(tiny, tmp_path):
    file = write(
        tmp_path,
        good(0),
        {**good(1), "chosen": "x" * 300},
        {"messages": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"},
    )
    corpus = load_pairs(DpoConfig(pairs=(file,), drop_long=True), tiny(None).data, FORM)
    assert corpus.sources[0].files[0]["too_long"] == 1
    assert len(corpus.sources[0].train) == len(corpus.sources[0].held_out) == 1
    config = tiny(tmp_path, dpo=DpoConfig(pairs=(file,)))
    for wrong, says in [
        (replace(config, dpo=DpoConfig()), "nothing to learn from"),
        (replace(config, dpo=DpoConfig(pairs=(file, file))), "names a source twice"),
        (replace(config, dpo=DpoConfig(pairs=(file,), beta=0.0)), "beta"),
        (replace(config, data=DataConfig()), "--init"),
        (replace(config, train=replace(config.train, batch=9, micro_batch=3)), "whole pairs"),
    ]:
        with pytest.raises((ConfigError, DataError), match=says):
            fit(wrong, training_of(wrong))
