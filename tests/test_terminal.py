"""Any text reaches any terminal, file or pipe: shown, not executed, and never the end of a run."""

import io
import os
import signal
import sys

import pytest

from seekjax.commands.status import exit_status
from seekjax.errors import DataError, Status
from seekjax.terminal import (
    accept_any_text,
    discard_output,
    print_lines,
    visible,
    well_formed,
)
from seekjax.train.metrics import Screen
from seekjax.train.signals import Signals

ATTACK = "\x1b]0;owned\x07\x1b[2J\u202e\r\b\x85"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\u202e\r\x08\x85"


class Terminal(io.StringIO):
    """A file that is a terminal."""

    def isatty(self):
        return True


def stream(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def test_a_model_cannot_command_the_terminal(capsys):
    assert visible(ATTACK) == SHOWN
    print_lines([f"    {ATTACK}\tx"])
    Screen(3, 0, Signals()).say(f"a sample: {ATTACK}")
    assert capsys.readouterr().out == f"    {SHOWN}\tx\na sample: {SHOWN}\n"


def test_an_error_cannot_either(capsys):
    def fail():
        raise DataError(f"the chat template fails: {ATTACK}")

    assert exit_status(fail) == 2
    assert capsys.readouterr().err == f"error: the chat template fails: {SHOWN}\n"


@pytest.mark.parametrize(
    ("encoding", "printed"), [("ascii", "2 ? ?"), ("cp1252", "2 ? é"), ("utf-8", "2 你 é")]
)
def test_what_an_encoding_lacks_is_replaced(encoding, printed, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream(encoding))
    accept_any_text()
    print("2 你 é")
    assert sys.stdout.buffer.getvalue().decode(encoding) == f"{printed}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("café 你", "café 你"),
        ("caf\udce9", "caf\ufffd"),  # Latin-1 in the place of UTF-8
        ("caf\udcc3\udca9", "café"),  # UTF-8 on a terminal that is ASCII
        ("\ud83d half", "\ufffd half"),
    ],
)
def test_an_argument_that_is_no_utf8_becomes_text(text, expected):
    assert well_formed(text) == expected


@pytest.mark.parametrize(
    ("variables", "file"),
    [({"TERM": "dumb"}, Terminal()), ({"FORCE_COLOR": "1", "TERM": "xterm"}, io.StringIO())],
    ids=["dumb", "file"],
)
def test_what_cannot_redraw_a_line_gets_plain_ones(variables, file, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", file)
    record = {"step": 1, "tokens_per_second": 9, "share_of_peak": 0, "grad_norm": 0}
    with Screen(3, 0, Signals()) as screen:
        screen.report(record | {"max_violation": 0}, "loss 2.000", 200)
        on_devices = {"max_violation": 0.5, "device_max_violation": 0.125}
        screen.report(record | on_devices, "loss 2.000", None)
    first, second = file.getvalue().splitlines()
    assert first.startswith("step 1/3  loss 2.000  9 tok/s")
    assert first.endswith("MaxVio 0.00  3m20s left")
    assert second.endswith("MaxVio 0.50  of devices 0.12")
    assert "\x1b" not in file.getvalue()


def test_a_reader_that_leaves_ends_a_command_quietly(monkeypatch, capfd):
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    assert exit_status(lambda: print("text")) == Status.UNREAD
    sys.stdout.close()
    assert capfd.readouterr().err == ""


def test_a_run_whose_reader_leaves_is_stopped_and_saved(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    signals = Signals()
    Screen(3, 0, signals).say("step 1")
    assert signals.stop == signal.SIGPIPE
    discard_output()
