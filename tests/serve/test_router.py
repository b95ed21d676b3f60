"""Which of several engines answers a request."""

import pytest

from seekjax.generate.engine.request import Request
from seekjax.serve import router as router_module
from seekjax.serve.router import BLOCK, IN_PROGRESS, Router

IDLE = {0: 0, 1: 0}
LONG = list(range(2 * IN_PROGRESS))  # a prompt that takes longer to read than an answer to write


def test_the_engine_with_the_fewest_requests_is_chosen():
    assert Router(3).choose(Request([1]), {0: 2, 1: 1, 2: 3}) == 1


def test_idle_engines_take_turns():
    router = Router(2)
    assert [router.choose(Request([number]), IDLE) for number in range(4)] == [0, 1, 0, 1]


def test_a_conversation_stays_where_its_beginning_is():
    router = Router(2)
    first = router.choose(Request(LONG), IDLE)
    assert router.choose(Request([7]), IDLE) != first

    busy = IDLE | {first: 1}
    for turn in range(3):
        assert router.choose(Request(LONG + [turn] * BLOCK), busy) == first


def test_a_short_beginning_is_read_again_rather_than_waited_for():
    router = Router(2)
    prompt = list(range(BLOCK))
    first = router.choose(Request(prompt), IDLE)
    assert router.choose(Request(prompt), IDLE | {first: 1}) != first


def test_another_salt_knows_nothing_of_it():
    router = Router(2)
    first = router.choose(Request(LONG, salt="a"), IDLE)
    assert router.choose(Request(LONG, salt="b"), IDLE) != first


def test_an_engine_that_has_failed_is_not_chosen():
    router = Router(2)
    first = router.choose(Request(LONG), IDLE)
    assert router.choose(Request(LONG), {1 - first: 5}) == 1 - first


@pytest.mark.parametrize("forgotten", [False, True])
def test_what_was_asked_longest_ago_is_forgotten(monkeypatch, forgotten):
    monkeypatch.setattr(router_module, "REMEMBERED", len(LONG) // BLOCK)
    router = Router(2)
    first = router.choose(Request(LONG), IDLE)
    if forgotten:  # as many blocks of another prompt
        router.choose(Request([-id for id in LONG]), {first: 0})
    again = router.choose(Request(LONG), IDLE | {first: 1})
    assert (again != first) == forgotten
