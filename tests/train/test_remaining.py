"""How long a run still takes: announced once it is measured, and corrected when it was wrong."""

import pytest

from seekjax.config import TrainConfig
from seekjax.train import clock as clock_module
from seekjax.train.clock import Clock, Spent
from seekjax.train.remaining import Remaining, about

TRAIN = TrainConfig(steps=300, batch=16, eval_every=100, eval_batches=3)


@pytest.fixture
def now(monkeypatch):
    """A clock that is set by hand."""
    hands = [0.0]
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: hands[0])
    return hands


@pytest.fixture
def run(now):
    """A clock and an estimate after a first step with a minute of compilation."""
    clock = Clock(Spent(), began=0.0)
    now[0] = 60.0
    clock.begin_steps()
    remaining = Remaining(TRAIN, clock)
    assert remaining.seconds(1) is None
    return clock, remaining


def test_it_is_announced_after_the_first_steps(run, now):
    _, remaining = run
    now[0] += 9.0  # nine steps: one second each
    seconds = remaining.seconds(10)
    # 290 steps, and three evaluations of three batches, each forward alone
    assert seconds == pytest.approx(290 + 3 * 3 / 3)
    assert remaining.line(seconds) == (
        "this run: about 5 minutes from here to its last step, on this machine"
    )
    assert remaining.line(remaining.seconds(10)) is None


def test_evaluations_that_were_measured_count(run, now):
    clock, remaining = run
    now[0] += 99.0
    with clock.at("evaluation"):
        now[0] += 20.0
    now[0] += 50.0
    assert remaining.seconds(150) == pytest.approx(150 + 2 * 20)


def test_an_estimate_that_was_wrong_is_corrected_once(run, now):
    _, remaining = run
    now[0] += 9.0
    remaining.line(remaining.seconds(10))
    now[0] += 300.0  # thirty steps of ten seconds
    line = remaining.line(remaining.seconds(40))
    assert line == "this run: now about 35 minutes from here, slower than measured before"
    assert remaining.line(remaining.seconds(40)) is None


def test_a_run_of_seconds_has_no_line(run, now):
    _, remaining = run
    now[0] += 0.9
    assert remaining.line(remaining.seconds(200)) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (12, "about 10 seconds"),
        (58, "about 1 minute"),
        (290, "about 5 minutes"),
        (3 * 3600, "about 3.0 hours"),
        (4 * 86400, "about 4.0 days"),
    ],
)
def test_times_in_words(seconds, words):
    assert about(seconds) == words
