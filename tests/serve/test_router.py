"""Which of several engines answers a request."""

import pytest

from seekjax.generate.engine.request import Request
from seekjax.serve import router as router_module
from seekjax.serve.router import BLOCK, IN_PROGRESS, Router

BOTH = (0, 1)
LONG = list(range(2 * IN_PROGRESS))  # a prompt that takes longer to read than an answer to write


def test_requests_are_spread_evenly():
    router = Router(3)
    chosen = [router.choose(Request([number]), range(3)) for number in range(9)]
    assert sorted(chosen) == sorted([0, 1, 2] * 3)
    router.end(1)
    assert router.choose(Request([9]), range(3)) == 1


def test_idle_engines_take_turns():
    router = Router(2)
    chosen = []
    for number in range(4):
        chosen.append(router.choose(Request([number]), BOTH))
        router.end(chosen[-1])
    assert chosen == [0, 1, 0, 1]


def test_a_conversation_stays_where_its_beginning_is():
    router = Router(2)
    first = router.choose(Request(LONG), BOTH)
    router.end(first)
    other = router.choose(Request([7]), BOTH)
    router.end(other)
    assert other != first

    for turn in range(3):
        assert router.choose(Request(LONG + [turn] * BLOCK), BOTH) == first
        router.end(first)


def test_a_short_beginning_is_read_again_rather_than_waited_for():
    router = Router(2)
    prompt = list(range(BLOCK))
    first = router.choose(Request(prompt), BOTH)
    assert router.choose(Request(prompt), BOTH) != first


def test_another_salt_knows_nothing_of_it():
    router = Router(2)
    first = router.choose(Request(LONG, salt="a"), BOTH)
    router.end(first)
    assert router.choose(Request(LONG, salt="b"), BOTH) != first


def test_an_engine_that_has_failed_is_not_chosen():
    router = Router(2)
    first = router.choose(Request(LONG), BOTH)
    assert router.choose(Request(LONG), [1 - first]) == 1 - first


@pytest.mark.parametrize("again", [0, 1])
def test_what_was_asked_longest_ago_is_forgotten(monkeypatch, again):
    monkeypatch.setattr(router_module, "REMEMBERED", len(LONG) // BLOCK)
    router = Router(2)
    first = router.choose(Request(LONG), BOTH)
    router.end(first)
    other = [-id for id in LONG]
    if again:  # as many blocks of another prompt
        router.choose(Request(other), [first])
        router.end(first)
        router.choose(Request([1]), [1 - first])
        router.end(1 - first)
    known = 0 if again else len(LONG)
    cost = router._cost(first, Request(LONG), router_module.page_keys("", LONG, BLOCK))
    assert cost == len(LONG) - known
