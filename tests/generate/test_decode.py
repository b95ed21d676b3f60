"""Decoding from the cache writes what the model would write without one, for every kind of
attention, prompt length and way to stop."""

import jax
import numpy as np
import pytest

from seekjax.config import KernelConfig
from seekjax.errors import GenerateError
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.generate.state import Decoder, decoding_variables
from seekjax.model import count
from seekjax.model.block import unstack
from seekjax.model.cache import cache_bytes, empty_cache

GREEDY = Sampling(
    max_new=16, temperature=0
)  # so that prompts of any length here fall into one bucket, and compile once
KERNEL = KernelConfig(attention="plain")


@pytest.fixture(scope="module")
def generator(made):
    return Generator(made.model, made.variables, KERNEL, draft=False)


@pytest.mark.slow
def test_cached_is_uncached_and_together_is_alone(made, generator, prompts):
    rows = generator(prompts, GREEDY)
    for prompt, row in zip(prompts, rows, strict=True):
        assert row.ids == made.greedy(prompt, 16)
        assert row.finish_reason == "length"
        exact = made.log_probs(prompt + row.ids)[np.arange(16) + len(prompt) - 1, row.ids]
        np.testing.assert_allclose(row.log_probs, exact, atol=2e-5)
        assert generator([prompt], GREEDY)[0].ids == row.ids


@pytest.mark.slow
def test_sampled_together_is_sampled_alone(generator, prompts):
    rows = generator(prompts, Sampling(max_new=16, temperature=0.8, top_p=0.95, seed=5))
    alone = [
        generator([prompt], Sampling(max_new=16, temperature=0.8, top_p=0.95, seed=5 + b))[0]
        for b, prompt in enumerate(prompts)
    ]
    assert [row.ids for row in rows] == [row.ids for row in alone]
    assert rows[0].ids != generator(prompts, Sampling(max_new=16, temperature=0.8, seed=6))[0].ids


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {
            "layers": 1,
            "dense_layers": 0,
            "q_latent": 0,
            "scoring": "softmax",
            "group_score": "max",
            "renormalise": False,
            "expert_groups": 1,
            "groups_per_token": 1,
            "mtp_depth": 0,
        },
        {"layers": 1, "attention": "mha", "nope": 0, "dense_layers": 1, "mtp_depth": 0},
    ],
    ids=["v2-lite", "mha, all dense"],
)
def test_other_models(make, prompts, fields):
    made = make(**fields)
    for prompt, row in zip(
        prompts, Generator(made.model, made.variables, KERNEL)(prompts, GREEDY), strict=True
    ):
        assert row.ids == made.greedy(prompt, 16)


@pytest.mark.slow
def test_a_row_stops_by_id_or_where_the_context_ends(generator, prompts, made):
    plain = [row.ids for row in generator(prompts, GREEDY)]
    stop = plain[0][3]
    rows = generator(prompts, Sampling(max_new=16, temperature=0, stop_ids=(stop,)))
    for row, ids in zip(rows, plain):
        until = ids[: ids.index(stop) + 1] if stop in ids else ids
        assert row.ids == until
        assert row.finish_reason == ("stop" if stop in ids else "length")
    long = [1] * (made.model.context - 3)
    assert len(generator([long], GREEDY)[0].ids) == 3


def test_the_cache_holds_the_latent_alone(made):
    cache = unstack(made.model, empty_cache(made.model, 3, 32))
    assert len(cache) == made.model.layers
    assert cache_bytes(cache) == 3 * 32 * count.cache_bytes(made.model, element=4)


def test_low_precision_keeps_router_bias_and_norms(made):
    tree = decoding_variables(Decoder(made.model, KernelConfig(dtype="bfloat16")), made.variables)
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        name = path[-1].key
        assert x.dtype == (
            "float32" if "norm" in name or name in ("bias", "w_router") else "bfloat16"
        ), path


@pytest.mark.parametrize(
    ("prompts", "sampling", "said"),
    [
        ([], GREEDY, "no prompt"),
        ([[]], GREEDY, "prompt 0 is empty"),
        ([[3], [48]], GREEDY, "prompt 1 has id 48: .* 0 to 47"),
        ([[-1]], GREEDY, "id -1"),
        ([[1] * 64], GREEDY, "64 tokens and leaves no room"),
        ([[1]], Sampling(stop=("x",)), "decode=tokenizer.decode"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(generator, prompts, sampling, said):
    with pytest.raises(GenerateError, match=said):
        generator.stream(prompts, sampling)


def test_a_draft_needs_a_prediction_module(make):
    made = make(mtp_depth=0)
    with pytest.raises(GenerateError, match="no prediction module"):
        Generator(made.model, made.variables, KERNEL, draft=True)
