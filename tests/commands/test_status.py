"""How a command ends: the exit status, one sentence, and the traceback in a file."""

import pytest

from seekjax.commands.cli import STATUSES
from seekjax.commands.status import exit_status, failing_in
from seekjax.errors import DataError, Status


def failing(error):
    def work():
        raise error

    return work


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """The cache folder of a test."""
    monkeypatch.setenv("SEEKJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_users_mistake_is_its_sentence(capsys):
    assert exit_status(failing(DataError("bad\x1b[2J data."))) == Status.BAD_INPUT
    assert capsys.readouterr().err == "error: bad\\x1b[2J data.\n"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (KeyError("x"), "this failed with KeyError ('x'): a defect of seekjax"),
        (AssertionError(), "this failed with AssertionError: a defect"),
        (RuntimeError("RESOURCE_EXHAUSTED: 3 GiB\nand more"), "there is not enough memory"),
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device."),
        (BaseException("panic" * 1000), "a defect of seekjax"),
        (BrokenPipeError(32, "Broken pipe"), "Broken pipe"),
    ],
    ids=["defect", "wordless", "memory", "disk", "panic", "pipe"],
)
def test_anything_else_is_a_sentence_that_names_the_traceback(error, sentence, elsewhere, capsys):
    assert exit_status(failing(error)) == Status.FAILED
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert len(said) < 700
    (file,) = elsewhere.glob("failures/*.txt")
    assert f"The traceback is in {file}." in said
    assert "Traceback" in file.read_text()
    assert "jax 0." in file.read_text()


def test_the_traceback_of_a_run_lies_in_its_folder(tmp_path, elsewhere, capsys):
    run = tmp_path / "run"
    run.mkdir()

    def work():
        with failing_in(tmp_path / "outer"), failing_in(run):
            raise KeyError("x")

    assert exit_status(work) == Status.FAILED
    assert len([*run.glob("failure-*.txt")]) == 1
    assert not elsewhere.exists()


def test_a_traceback_that_cannot_be_saved_is_printed(tmp_path, monkeypatch, capsys):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("SEEKJAX_CACHE", str(file))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(file))
    assert exit_status(failing(KeyError("x"))) == Status.FAILED
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_is_a_word(capsys):
    assert exit_status(failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_help_lists_every_status():
    assert set(STATUSES) == set(Status)
