"""Where the time of a run goes, over all its starts, and what takes much longer than usual."""

import time

import pytest

from seekjax.train import clock as clock_module
from seekjax.train.clock import Clock, Spent, watching


@pytest.fixture
def now(monkeypatch):
    """A clock that is set by hand."""
    hands = [100.0]
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: hands[0])
    return hands


def stay(clock, place, now, seconds):
    with clock.at(place):
        now[0] += seconds
        return clock.overdue(10)


def test_goodput_counts_all_starts(now):
    clock = Clock(Spent(starts=2, seconds=60.0, step_seconds=30.0), began=90.0)
    clock.step_seconds += 7.5
    assert clock.record() == {
        "start": 3,
        "seconds": 70.0,
        "step_seconds": 37.5,
        "goodput": pytest.approx(37.5 / 70, abs=1e-4),
    }
    assert "1m10s over 3 starts, 54% of it in steps that counted" in clock.sentence()


def test_what_takes_much_longer_than_usual_is_reported_once(now):
    clock = Clock(Spent(), began=0.0)
    assert stay(clock, "data", now, 300) is None  # unknown: it may be the first rollout
    clock.forget("data")
    for _ in range(3):
        assert stay(clock, "data", now, 2) is None
    assert stay(clock, "data", now, 19) is None
    for _ in range(2):  # what was reported does not become the usual
        clock.forget()
        with clock.at("data"):
            now[0] += 200
            assert "for 3m20s the run has been waiting for the next batch" in clock.overdue(10)
            assert clock.overdue(10) is None
    assert stay(clock, "save", now, 60) is None


def test_a_watchdog_writes_what_each_thread_does(tmp_path, monkeypatch):
    monkeypatch.setattr(clock_module, "LEAST", 0.01)
    monkeypatch.setattr(clock_module, "UNKNOWN", 0.02)
    said = []
    clock = Clock(Spent(), began=time.perf_counter())
    with watching(clock, 2.0, tmp_path, said.append, every=0.005), clock.at("device"):
        deadline = time.monotonic() + 10
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "waiting for the figures of the steps in progress: a hung device" in said[0]
    assert "test_a_watchdog_writes_what_each_thread_does" in (tmp_path / "stacks.txt").read_text()
