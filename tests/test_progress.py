"""How far a work has come: a line on a terminal, and one line at the end anywhere."""

import io
import re

import pytest

from seekjax import console
from seekjax.console import Shown, progress, track
from seekjax.terminal import duration


class Terminal(io.StringIO):
    """A file that is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def now(monkeypatch):
    """A clock that is set by hand."""
    hands = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: hands[0])
    return hands


def test_the_line_has_a_bar_the_share_and_the_time_left(now):
    shown = Shown("written")
    now[0] = 4.0
    assert shown.line(80) == "written: 4s so far"
    shown(0.0)
    shown(0.25, "1 of 4")
    assert shown.line(80) == "written: [=====               ] 25%, 12s left, 1 of 4"
    assert shown.line(40) == "written: 25%, 12s left, 1 of 4"
    assert shown.line(25) == "written: 25%, 12s left"
    assert shown.line(18) == "wr…: 25%, 12s left"


def test_what_goes_on_from_the_middle_has_its_own_speed(now):
    shown = Shown("eval")
    shown(0.5)
    now[0] = 10.0
    shown(0.6, "2.100 bits/byte")
    assert "60%, 40s left" in shown.line(80)
    assert shown.last_line() == "eval: 2.100 bits/byte in 10s"


def test_without_a_terminal_there_is_one_line_at_the_end(now):
    file = io.StringIO()
    with progress("read", file) as show:
        for done in range(5):
            show(done / 4, f"{done} of 4")
            now[0] += 1.0
        assert file.getvalue() == ""
    assert file.getvalue() == "read: 4 of 4 in 5s\n"


def fail(now) -> None:
    with progress("read"):
        now[0] += 100.0
        raise EOFError


def test_what_is_quick_or_fails_has_no_line(now, capsys):
    assert list(track("abcd", 4, "written")) == ["a", "b", "c", "d"]
    with pytest.raises(EOFError):
        fail(now)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("width", [12, 30, 80])
def test_a_narrow_terminal_gets_one_line_too(width, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    file = Terminal()
    with progress("tensors written", file) as show:
        show(0.0)
        show(0.5, "7 of 14")
    drawn = [re.sub("\x1b\\[[?0-9;]*[a-zA-Z]", "", line) for line in file.getvalue().split("\r")]
    assert any(line.strip() for line in drawn)
    for line in drawn:
        assert len(line.strip()) <= width
        assert "\n" not in line.strip()


def test_times_in_words():
    assert [duration(seconds) for seconds in (9.4, 200, 7500)] == ["9s", "3m20s", "2h05m"]
