"""The engines' threads: bounded queue, cancellation, failures, the end, several engines."""

import asyncio
from contextlib import suppress

import pytest

from seekjax.generate.engine.request import Request
from seekjax.serve.answer import Answer
from seekjax.serve.errors import RequestError
from seekjax.serve.events import Content
from seekjax.serve.meter import RECENT, Meter, Recent
from seekjax.serve.service import Service
from seekjax.serve.text import ReasoningSplitter
from seekjax.serve.worker import MOST_FAILURES
from tests.serve.fake_engine import FakeEngine

PROMPT = [97]


def choice(tokenizer, stop=()):
    """One request and its answer, as `Service.begin` takes it."""
    return {Request(PROMPT): Answer(tokenizer, PROMPT, ReasoningSplitter(closed=True), stop)}


async def text_of(answers):
    """The text of an answer's only choice."""
    return "".join(
        [event.text async for _, event in answers.events() if isinstance(event, Content)]
    )


def with_service(engine, work, most=8):
    """Return what `work(service)` returns, within a running service of one engine or more."""
    engines = [engine] if isinstance(engine, FakeEngine) else engine

    async def run():
        service = Service(engines, most)
        service.start()
        try:
            return await asyncio.wait_for(work(service), 20)
        finally:
            await service.stop(5)

    return asyncio.run(run())


def test_a_full_queue_refuses_and_says_when_to_try_again(tokenizer):
    engine = FakeEngine(tokenizer, "ok")
    engine.delay = 0.05

    async def work(service):
        accepted = [await service.begin(choice(tokenizer)) for _ in range(2)]
        with pytest.raises(RequestError, match="takes 2 at a time") as refusal:
            await service.begin(choice(tokenizer))
        return refusal.value, [await text_of(answers) for answers in accepted]

    error, texts = with_service(engine, work, most=2)
    assert error.http == 429
    assert error.retry_after >= 1
    assert texts == ["ok", "ok"]


def test_more_choices_than_there_are_places_are_a_bad_request(tokenizer):
    async def work(service):
        choices = {}
        for _ in range(3):
            choices |= choice(tokenizer)
        with pytest.raises(RequestError, match="takes 2 at a time: send fewer") as refusal:
            await service.begin(choices)
        return refusal.value.http, service.in_progress

    assert with_service(FakeEngine(tokenizer), work, most=2) == (400, 0)


def test_a_stop_string_cancels_the_request(tokenizer):
    engine = FakeEngine(tokenizer, "one. two. three." * 20)

    async def work(service):
        text = await text_of(await service.begin(choice(tokenizer, (".",))))
        await service.statistics()  # comes after the cancellation
        return text, service.in_progress

    assert with_service(engine, work) == ("one", 0)
    assert engine.cancelled == engine.requests


def test_what_the_engine_refuses_is_a_bad_request(tokenizer):
    async def work(service):
        bad = {Request([99999]): Answer(tokenizer, [99999], ReasoningSplitter())}
        good = choice(tokenizer)
        with pytest.raises(RequestError, match="no such token") as refusal:
            await service.begin(good | bad)
        return refusal.value.http, service.in_progress

    engine = FakeEngine(tokenizer)
    assert with_service(engine, work) == (400, 0)
    assert len(engine.cancelled) == 1  # the good one, which was submitted before


def test_a_failing_engine_ends_its_requests_and_goes_on(tokenizer):
    engine = FakeEngine(tokenizer, "ok")

    async def work(service):
        engine.failing = 1
        with pytest.raises(RequestError, match="the engine has failed") as failure:
            await text_of(await service.begin(choice(tokenizer)))
        return failure.value.http, await text_of(await service.begin(choice(tokenizer)))

    assert with_service(engine, work) == (500, "ok")


def test_an_engine_that_fails_again_and_again_closes_the_server(tokenizer):
    engine = FakeEngine(tokenizer)

    async def work(service):
        engine.failing = 99
        for _ in range(4):
            with pytest.raises(RequestError) as failure:
                await text_of(await service.begin(choice(tokenizer)))
        return failure.value.http

    assert with_service(engine, work) == 503
    assert engine.failing == 99 - MOST_FAILURES  # it makes no step any more


def test_the_end_waits_for_answers_and_refuses_new_ones(tokenizer):
    engine = FakeEngine(tokenizer, "a long answer")
    engine.delay = 0.01

    async def work(service):
        answers = await service.begin(choice(tokenizer))
        ending = asyncio.create_task(service.stop(5))
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="shutting down") as refusal:
            await service.begin(choice(tokenizer))
        text = await text_of(answers)
        await ending
        return refusal.value.http, text

    assert with_service(engine, work) == (503, "a long answer")


def test_the_end_does_not_wait_longer_than_it_is_allowed(tokenizer):
    engine = FakeEngine(tokenizer, "endless " * 200)
    engine.delay = 0.01

    async def work(service):
        answers = await service.begin(choice(tokenizer))
        await service.stop(0)
        with pytest.raises(RequestError, match="shut down before the end"):
            await text_of(answers)

    with_service(engine, work)


def two_engines(tokenizer, *script):
    return [FakeEngine(tokenizer, *script) for _ in range(2)]


def test_two_engines_share_what_is_asked(tokenizer):
    engines = two_engines(tokenizer, "ok")

    async def work(service):
        choices = {}
        for _ in range(4):
            choices |= choice(tokenizer)
        answers = await service.begin(choices)
        events = [event async for _, event in answers.events()]
        text = "".join(event.text for event in events if isinstance(event, Content))
        return text, await service.statistics()

    text, statistics = with_service(engines, work)
    assert sorted(text) == sorted("ok" * 4)
    assert [len(engine.requests) for engine in engines] == [2, 2]
    assert statistics.prompt_tokens == 4 * len(PROMPT)
    assert statistics.pages_total == sum(engine.total for engine in engines)
    assert statistics.load.sum() == sum(engine.statistics().load.sum() for engine in engines)


def test_what_one_engine_refuses_is_taken_from_the_other(tokenizer):
    engines = two_engines(tokenizer)

    async def work(service):
        bad = {Request([99999]): Answer(tokenizer, [99999], ReasoningSplitter())}
        with pytest.raises(RequestError, match="no such token"):
            await service.begin(choice(tokenizer) | bad)
        await service.statistics()  # comes after the cancellation
        return service.in_progress

    assert with_service(engines, work) == 0
    assert [engine.cancelled for engine in engines] == [engine.requests for engine in engines]
    assert sum(len(engine.requests) for engine in engines) == 1


def test_one_engine_that_fails_leaves_the_other_serving(tokenizer):
    engines = two_engines(tokenizer, "ok")

    async def work(service):
        engines[0].failing = MOST_FAILURES
        while engines[0].failing:
            with suppress(RequestError):
                await text_of(await service.begin(choice(tokenizer)))
        await service.statistics()  # comes after the last failure
        asked = len(engines[0].requests)
        texts = [await text_of(await service.begin(choice(tokenizer))) for _ in range(3)]
        return texts, service.failure, len(engines[0].requests) - asked

    assert with_service(engines, work) == (["ok"] * 3, "", 0)


def test_speeds_are_averages_of_the_last_seconds():
    now = 0.0
    recent = Recent(lambda: now)
    now = 10.0
    recent.add(50)
    assert recent.per_second() == 5
    now = 10.0 + RECENT + 1
    assert recent.per_second() == 0


def test_retry_after_is_worked_out_from_the_speed():
    now = 0.0
    meter = Meter(lambda: now)
    assert meter.seconds_until_free(5) == 10  # before anything has ended
    now = 10.0
    for _ in range(20):
        request = Request(PROMPT)
        meter.begin(request)
        meter.cancel(request)
    assert meter.seconds_until_free(8) == 4
