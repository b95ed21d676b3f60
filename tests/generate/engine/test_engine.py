"""A request's answer is its own, whoever else is served: alone, among others, after a prefix hit,
after preemption, on programs that were all compiled before."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from seekjax.errors import GenerateError
from seekjax.generate.engine.engine import QueueFullError
from seekjax.generate.engine.request import Request, RequestSampling
from seekjax.generate.sampling import Sampling
from tests.generate.engine.conftest import greedy, serve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def eight():
    random = np.random.default_rng(7)
    return [random.integers(0, 48, length).tolist() for length in (9, 1, 14, 30, 2, 47, 17, 8)]


def test_alone_among_seven_others_and_by_the_generator(cold, generator, made, eight):
    together = serve(cold, [greedy(prompt) for prompt in eight])
    [alone] = serve(cold, [greedy(eight[2])])
    assert alone.ids == together[2].ids
    assert alone.ids == made.greedy(eight[2], 16)
    np.testing.assert_allclose(log_probs(alone), log_probs(together[2]), atol=1e-5)

    expected = generator(eight, Sampling(max_new=16, temperature=0))
    for answer, row in zip(together, expected, strict=True):
        assert answer.ids == row.ids
        assert answer.reason == "length"
        np.testing.assert_allclose(log_probs(answer), row.log_probs, atol=2e-5)


def test_the_same_seed_draws_what_the_generator_draws(engine, generator, eight):
    settings = {"max_new": 16, "temperature": 0.8, "top_p": 0.95}
    requests = [
        Request(prompt, RequestSampling(seed=2**40 + b, **settings))
        for b, prompt in enumerate(eight)
    ]
    expected = generator(eight, Sampling(seed=2**40, **settings))
    assert [answer.ids for answer in serve(engine, requests)] == [row.ids for row in expected]


def test_requests_join_and_leave_at_any_step(cold, eight):
    late, steps = list(eight[1:]), []
    together = {}

    def one_more(answers):
        steps.append(1)
        if late:
            request = greedy(late.pop())
            together[request] = answers[request] = type(answers[first])()
            cold.submit(request)

    first = greedy(eight[0])
    serve(cold, [first], one_more)
    assert len(steps) > 8
    for request, answer in together.items():
        assert answer.ids == serve(cold, [greedy(request.prompt)])[0].ids


def test_a_prefix_hit_is_as_cold(cold, eight):
    prompt = eight[5]
    [first] = serve(cold, [greedy(prompt, routed_experts=True)])
    [again] = serve(cold, [greedy(prompt, routed_experts=True)])
    [salted] = serve(cold, [Request(prompt, first.updates[0].request.sampling, salt="other")])
    assert [answer.updates[0].cached_tokens for answer in (first, again, salted)] == [0, 40, 0]
    assert first.ids == again.ids == salted.ids
    np.testing.assert_allclose(log_probs(first), log_probs(again), atol=1e-5)
    for cold_token, token in zip(first.updates[0].prompt, again.updates[0].prompt, strict=True):
        assert np.array_equal(cold_token.experts, token.experts)

    # what was generated is found too: 47 + 16 tokens, the last of them never read
    [longer] = serve(cold, [greedy(prompt + first.ids, max_new=1, routed_experts=True)])
    assert longer.updates[0].cached_tokens == 56
    experts = [token.experts for token in longer.updates[0].prompt]
    for token, expected in zip(first.tokens[:-1], experts[47:]):
        assert np.array_equal(token.experts, expected)
    assert first.tokens[-1].experts is None


def test_cancelling_frees_the_pages_at_once(engine, eight):
    requests = [greedy(prompt) for prompt in eight]
    for request in requests:
        engine.submit(request)
    engine.step()
    held = engine.pool.held
    assert held > 0
    for request in requests:
        engine.cancel(request)
        engine.cancel(request)
    assert engine.pool.held == 0
    assert not engine.idle
    assert [update.finish_reason for update in engine.step()] == ["cancelled"] * 8
    assert engine.idle
    assert engine.step() == []


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_preemption_changes_no_text(cold, generator, eight, temperature):
    before = cold.statistics().preemptions
    settings = {"max_new": 40, "temperature": temperature}
    requests = [
        Request(prompt, RequestSampling(seed=b, **settings)) for b, prompt in enumerate(eight)
    ]
    answers = serve(cold, requests)
    assert cold.statistics().preemptions > before
    expected = generator(eight, Sampling(seed=0, **settings))
    assert [answer.ids for answer in answers] == [row.ids for row in expected]
    assert [len(answer.ids) for answer in answers] == [40, 40, 40, 34, 40, 17, 40, 40]


def test_stop_ids_end_an_answer_however_many(engine, eight):
    [whole] = serve(engine, [greedy(eight[0])])
    stop = whole.ids[9]
    others = tuple(set(range(48)) - set(whole.ids))
    for stop_ids in ((stop,), (*others[:12], stop)):
        [answer] = serve(engine, [greedy(eight[0], stop_ids=stop_ids)])
        assert answer.ids == whole.ids[: whole.ids.index(stop) + 1]
        assert answer.reason == "stop"


def test_log_probabilities_of_prompt_and_most_likely_tokens(cold, made, eight):
    prompt = eight[5]
    request = greedy(prompt, max_new=6, prompt_logprobs=True, top_logprobs=3)
    plain = greedy(eight[2], max_new=6)
    answer, other = serve(cold, [request, plain])
    exact = made.log_probs(prompt[:40])
    scored = answer.updates[0].prompt
    assert [token.id for token in scored] == prompt
    assert np.isnan(scored[0].log_prob)
    np.testing.assert_allclose(
        [token.log_prob for token in scored[1:40]], exact[np.arange(39), prompt[1:40]], atol=2e-5
    )
    for token, row in zip(scored[1:40], exact):
        best = np.argsort(-row)[:3]
        assert [id for id, _ in token.top] == best.tolist()
        np.testing.assert_allclose([value for _, value in token.top], row[best], atol=2e-5)
    for token in answer.tokens:
        assert token.top[0] == (token.id, pytest.approx(token.log_prob, abs=1e-5))
    assert other.updates[0].prompt is None
    assert other.tokens[0].top == ()


def test_the_sampling_mask_says_what_was_kept(engine, made, eight):
    sampling = RequestSampling(max_new=8, temperature=1.0, top_k=5, sampling_mask=True)
    [answer] = serve(engine, [Request(eight[0], sampling)])
    text = eight[0] + answer.ids
    exact = made.log_probs(text)
    for i, token in enumerate(answer.tokens):
        kept = np.flatnonzero(np.unpackbits(token.kept, count=48))
        best = np.argsort(-exact[len(eight[0]) + i - 1])[:5]
        assert sorted(best) == kept.tolist()
        assert token.id in kept


class Alternating:
    """Even tokens, then odd ones, by turns; then nothing but the stop id."""

    def __init__(self, turns, stop):
        self.turns, self.stop, self.seen = turns, stop, []

    def mask(self):
        allowed = np.arange(64) % 2 == len(self.seen) % 2
        if len(self.seen) == self.turns:
            allowed = np.arange(64) == self.stop
        return np.packbits(allowed, bitorder="little").view(np.uint32)

    def accept(self, id):
        self.seen.append(id)


def test_a_filter_decides_what_is_allowed(engine, eight):
    sampling = RequestSampling(max_new=16, temperature=1.5, stop_ids=(7,), seed=3)
    filters = [Alternating(5, 7), Alternating(9, 7)]
    requests = [Request(eight[0], sampling, filter=filter) for filter in filters]
    *filtered, free = serve(engine, [*requests, Request(eight[0], sampling)])
    for answer, filter in zip(filtered, filters, strict=True):
        assert answer.ids == [*filter.seen, 7]
        assert answer.reason == "stop"
    for answer in filtered:
        body = answer.ids[:-1]
        assert [id % 2 for id in body] == [i % 2 for i in range(len(body))]
    assert free.ids == serve(engine, [Request(eight[0], sampling)])[0].ids


@pytest.mark.parametrize("fault", ["raises", "allows nothing"])
def test_a_broken_filter_ends_its_own_request_alone(engine, eight, fault):
    class Broken(Alternating):
        def mask(self):
            if len(self.seen) < 2:
                return super().mask()
            if fault == "raises":
                raise RuntimeError("bad grammar")
            return np.zeros(2, np.uint32)

    broken, other = serve(
        engine, [Request(eight[0], filter=Broken(9, 7)), greedy(eight[2], max_new=5)]
    )
    assert broken.reason == "error"
    said = "bad grammar" if fault == "raises" else "allows no token"
    assert said in str(broken.updates[-1].error)
    assert len(other.ids) == 5


def test_nothing_compiles_after_the_start(engine, eight):
    names = []

    def note(event, _seconds, **_):
        names.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        requests = [
            greedy(eight[0], repetition_penalty=1.2, logit_bias=((3, 1.0),)),
            greedy(eight[5], prompt_logprobs=True),
            Request(eight[3], RequestSampling(max_new=30, top_p=0.5, seed=2**50)),
            Request(eight[1], filter=Alternating(3, 7)),
        ]
        serve(engine, requests)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert not [name for name in names if "compile" in name or "trace" in name]


def test_compiling_later_is_an_error(engine):
    with pytest.raises(GenerateError, match="no program decode of sizes \\(3, 64\\)"):
        engine.programs("decode", 3, 64)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request([]), "the prompt is empty"),
        (Request([3, 48]), "the prompt has id 48: .* 0 to 47"),
        (Request([-1]), "id -1"),
        (Request([1] * 64), "64 tokens and leaves no room in the context of 64"),
        (greedy([1], logit_bias=((48, 1.0),)), "logit_bias has id 48"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(engine, request_, said):
    with pytest.raises(GenerateError, match=said):
        engine.submit(request_)
    assert engine.idle


def test_a_full_queue_is_an_error_of_its_own(engine):
    requests = [greedy([1]) for _ in range(12)]
    for request in requests:
        engine.submit(request)
    with pytest.raises(QueueFullError, match="12 requests wait already"):
        engine.submit(greedy([1]))
    for request in requests:
        engine.cancel(request)
    engine.step()


def test_another_engine_runs_beside_it_in_a_thread_of_its_own(cold, eight):
    expected = [answer.ids for answer in serve(cold, [greedy(prompt) for prompt in eight])]
    other = cold.another()
    assert other.programs is cold.programs
    assert other.pool.free == other.pool.total
    assert other.statistics().generated_tokens == 0

    def ids(engine, prompts):
        return [answer.ids for answer in serve(engine, [greedy(prompt) for prompt in prompts])]

    with ThreadPoolExecutor(2) as threads:
        halves = [
            threads.submit(ids, cold, eight[:4]),
            threads.submit(ids, other, eight[4:]),
        ]
        assert halves[0].result() + halves[1].result() == expected
    assert other.statistics().prompt_tokens == sum(map(len, eight[4:]))


def test_the_counters_add_up(cold, eight):
    before = cold.statistics()
    serve(cold, [greedy(prompt, max_new=5) for prompt in eight])
    after = cold.statistics()
    assert after.queued == after.running == after.pages_held == 0
    assert after.pages_free + after.pages_evictable == after.pages_total == 40
    assert after.prompt_tokens - before.prompt_tokens == 128
    assert after.generated_tokens - before.generated_tokens == 40
    # every token but the last of each text is read once, by K = 2 experts of each layer
    assert after.load.shape == (1, 8)
    assert (after.load - before.load).sum() == 2 * (128 + 40 - 8)


def log_probs(answer):
    return [token.log_prob for token in answer.tokens]
