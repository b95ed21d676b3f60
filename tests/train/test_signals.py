"""Signals are answered at once, and end a run where nothing is lost."""

import os
import signal
import time

import pytest

from seekjax.train.signals import Interrupted, listening


def send(number):
    """Send a signal to this process, and stay until it is handled."""
    os.kill(os.getpid(), number)
    time.sleep(10)


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def said():
    return []


@pytest.fixture
def signals(said):
    # under nohup SIGHUP is ignored, and stays so
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with listening() as signals:
        signals.say = said.append
        yield signals
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_run_after_the_step(signals, said, name):
    signals.deferred = True
    os.kill(os.getpid(), getattr(signal, name))
    wait_for(lambda: said)
    assert signals.stop is getattr(signal, name)
    assert said == [f"{name}: ends after this step, saved; Ctrl-C again ends it now"]
    with pytest.raises(Interrupted), signals.interrupting():
        pass
    with signals.interrupting(allowed=False):
        pass


def test_a_signal_interrupts_what_can_be_left(signals):
    signals.deferred = True
    with pytest.raises(Interrupted), signals.interrupting():
        send(signal.SIGTERM)


def test_a_run_without_steps_ends_at_once(signals, said):
    with pytest.raises(Interrupted):
        send(signal.SIGTERM)
    wait_for(lambda: said)
    assert said == ["SIGTERM: ends now; the same command starts or continues the run"]


def test_a_signal_saves_and_the_run_goes_on(signals, said):
    signals.deferred = True
    os.kill(os.getpid(), signal.SIGUSR1)
    wait_for(lambda: said)
    assert signals.save
    assert signals.stop is None


def test_a_second_interrupt_in_a_program_of_others_raises(signals):
    signals.deferred = True
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


@pytest.mark.parametrize("deferred", [True, False])
def test_a_command_is_left_at_once_if_need_be(said, monkeypatch, deferred):
    """By a second Ctrl-C, or where the main thread does not come back: it is in a compiler."""
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr("seekjax.train.signals.GRACE", 0.01)
    with listening(own_process=True) as signals:
        signals.deferred, signals.say = deferred, said.append
        signals.request(signal.SIGINT)
        if deferred:
            assert not left
            signals.request(signal.SIGINT)
        wait_for(lambda: left)
    assert left == [130]


def test_handlers_are_put_back_and_nohup_is_respected(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGINT) != before
    finally:
        signal.signal(signal.SIGHUP, old)
    assert signal.getsignal(signal.SIGINT) == before
