"""A draft changes how fast is written, never what: greedy tokens are the same, and sampled ones
have exactly the model's distribution."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.config import KernelConfig
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling, draw, position_key
from seekjax.generate.speculative import DRAW_DRAFT, accept_or_resample
from seekjax.seeds import row_keys

KERNEL = KernelConfig(attention="plain")


@pytest.mark.slow
def test_greedy_with_a_draft_is_plain_greedy(made, prompts):
    generation = Generator(made.model, made.variables, KERNEL, draft=True).stream(
        prompts, Sampling(max_new=16, temperature=0), chunk=3
    )
    seen = [[len(row.ids) for row in rows] for rows in generation]
    assert seen[0] == [1, 1, 1]
    assert len(seen) > 2
    assert seen == sorted(seen)
    for prompt, row in zip(prompts, generation.completions, strict=True):
        assert row.ids == made.greedy(prompt, 16)
        assert row.finish_reason == "length"
        exact = made.log_probs(prompt + row.ids)[np.arange(16) + len(prompt) - 1, row.ids]
        np.testing.assert_allclose(row.log_probs, exact, atol=2e-5)
    assert 0 <= generation.accepted <= generation.row_steps <= 45
    assert "draft accepted" in generation.report()


@pytest.mark.slow
def test_a_draft_that_is_always_right_writes_two_tokens_a_step(made, prompts):
    """With the same token likeliest after everything, and the prediction module of one mind with
    the model."""
    params = dict(made.variables["params"])
    params["head"] = params["head"] * 0
    always = Generator(made.model, made.variables | {"params": params}, KERNEL, draft=True)
    generation = always.stream(prompts, Sampling(max_new=11, temperature=0))
    generation.finish()
    assert generation.row_steps == generation.accepted == 15
    assert [row.ids for row in generation.completions] == [[0] * 11] * 3
    assert generation.report().endswith("draft accepted 100%, 2.00 tokens per step")
    stopped = always(prompts, Sampling(max_new=11, temperature=0, stop_ids=(0,)))
    assert stopped[0].ids == [0]
    assert stopped[0].finish_reason == "stop"
    # the guess would make it five
    assert len(always(prompts, Sampling(max_new=4, temperature=0))[0].ids) == 4


@pytest.fixture(scope="module")
def four(make):
    """A model of one layer and four tokens."""
    return make(vocab=4, layers=1, dense_layers=0)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("draft", [False, True], ids=["plain", "draft"])
def test_sampled_texts_have_exactly_the_models_distribution(four, draft):
    """All 64 texts of three tokens out of four, 8,192 times, against the product of the uncached
    model's probabilities (a chi-squared test)."""
    made, rows = four, 8192
    sampling = Sampling(max_new=3, temperature=1.3, min_p=0.08, seed=11)
    p = np.zeros((4, 4, 4))
    for a, b, c in itertools.product(range(4), repeat=3):
        each = made.log_probs([2, 1, a, b])[1:] / sampling.temperature
        each = np.exp(each) * (np.exp(each) >= sampling.min_p * np.exp(each).max(-1, keepdims=True))
        p[a, b, c] = np.prod((each / each.sum(-1, keepdims=True))[np.arange(3), [a, b, c]])
    generation = Generator(made.model, made.variables, KERNEL, draft=draft).stream(
        [[2, 1]] * rows, sampling
    )
    generation.finish()
    seen = np.zeros((4, 4, 4))
    np.add.at(seen, tuple(np.array([row.ids for row in generation.completions]).T), 1)
    expected = rows * p / p.sum()
    assert (seen[expected == 0] == 0).all()
    assert abs(p.sum() - 1) < 1e-4
    likely = expected > 5
    chi2, freedom = ((seen - expected)[likely] ** 2 / expected[likely]).sum(), likely.sum() - 1
    assert freedom > 20
    assert chi2 < freedom + 4 * np.sqrt(2 * freedom), (chi2, freedom)
    if draft:
        assert 0.1 < generation.accepted / generation.row_steps < 0.95


@pytest.mark.slow
def test_judged_guesses_have_the_wanted_distribution():
    """Whatever the guesses are drawn from, also where that misses tokens or has ones that must not
    come."""
    random, rows = np.random.default_rng(0), 40_000
    key_B, place_B = row_keys(3, rows), jnp.full(rows, 5)
    for wanted, drawn in [
        (random.normal(size=5), random.normal(size=5) * 2),
        ([0, 0, -np.inf, -np.inf, 1], [-np.inf, 0, 0, 0, -np.inf]),
        ([0, -np.inf, 0, 0, 0], [0, -np.inf, 0, 0, 0]),
    ]:
        wanted_BV, drawn_BV = (
            jnp.tile(jnp.array(a, jnp.float32), (rows, 1)) for a in (wanted, drawn)
        )
        guess_B = draw(position_key(key_B, place_B, DRAW_DRAFT), drawn_BV)
        kept_B, token_B = jax.jit(accept_or_resample)(key_B, place_B, guess_B, wanted_BV, drawn_BV)
        p, q = jax.nn.softmax(wanted_BV[0]), jax.nn.softmax(drawn_BV[0])
        np.testing.assert_allclose(np.bincount(token_B, minlength=5) / rows, p, atol=0.012)
        assert abs(float(kept_B.mean()) - float(jnp.minimum(p, q).sum())) < 0.012
