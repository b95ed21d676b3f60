"""The prediction module as a draft in the running batch: the tokens are those of `Generator` with
the same draft, and so greedy ones those without it."""

import numpy as np
import pytest

from seekjax.generate.engine.engine import EngineSettings
from seekjax.generate.engine.request import Request, RequestSampling
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from tests.generate.engine.conftest import KERNEL, make_engine, serve
from tests.generate.engine.test_engine import Alternating

pytestmark = [pytest.mark.long, pytest.mark.slow]


@pytest.fixture(scope="module")
def engine(made):
    settings = EngineSettings(page_size=8, pages=24, max_batch=4, chunk=16, steps=3, draft=True)
    return make_engine(made, settings)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_drafted_answers_are_the_generators(engine, made, temperature):
    random = np.random.default_rng(5)
    prompts = [random.integers(0, 48, length).tolist() for length in (9, 1, 30, 17)]
    settings = {"max_new": 40, "temperature": temperature}
    requests = [
        Request(prompt, RequestSampling(seed=b, **settings)) for b, prompt in enumerate(prompts)
    ]
    answers = serve(engine, requests)
    generator = Generator(made.model, made.variables, KERNEL, draft=temperature > 0)
    expected = generator(prompts, Sampling(**settings))
    # a request that was preempted has no draft for its next token, and draws that one instead
    same = [answer.ids == row.ids for answer, row in zip(answers, expected, strict=True)]
    assert all(same) if temperature == 0 else sum(same) >= 2
    assert [len(answer.ids) for answer in answers] == [40, 40, 34, 40]
    for answer, row in zip(answers, expected, strict=True):
        if answer.ids == row.ids:
            log_probs = [token.log_prob for token in answer.tokens]
            np.testing.assert_allclose(log_probs, row.log_probs, atol=2e-5)

    statistics = engine.statistics()
    drafted = sum(token.drafted for answer in answers for token in answer.tokens)
    assert 0 < drafted <= statistics.accepted < statistics.drafted


def test_a_filter_and_a_draft_get_along(engine):
    sampling = RequestSampling(max_new=16, temperature=1.5, stop_ids=(7,), seed=3)
    filter = Alternating(6, 7)
    [answer] = serve(engine, [Request([3, 4, 5], sampling, filter=filter)])
    body = answer.ids[:-1]
    assert [id % 2 for id in body] == [i % 2 for i in range(len(body))]
    assert answer.reason == "stop"
