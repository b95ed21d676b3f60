"""A file is replaced whole or not at all."""

import os
import sys
import time
from pathlib import Path

import pytest

from seekjax import storage
from seekjax.errors import RunError
from seekjax.storage import (
    cache_folder,
    file_sha256,
    kind_of,
    new_file,
    new_folder,
    read_json,
    text_sha256,
    writable_cache,
    write_atomically,
)


@pytest.mark.parametrize(
    "content", ["naïve", "naïve".encode(), lambda file: file.write("naïve".encode())]
)
def test_text_bytes_and_writers_are_written(tmp_path, content):
    write_atomically(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "naïve"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def half(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a.txt", half)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_new_folder_appears_when_its_block_ends(tmp_path):
    with new_folder(tmp_path / "a", RunError) as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    assert os.listdir(tmp_path / "a") == ["x"]
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_a_block_that_fails_leaves_nothing(tmp_path, new):
    with (
        pytest.raises(RunError, match="cannot be written: disk full"),
        new(tmp_path / "a", RunError),
    ):
        raise OSError(28, "disk full")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_a_name_that_is_taken_is_refused(tmp_path, new):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RunError, match="is already there"), new(tmp_path / "a", RunError):
        pass
    assert (tmp_path / "a").read_text() == "old"


def test_a_run_that_has_not_saved_is_a_run(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert kind_of(tmp_path) == "published"
    (tmp_path / "data.json").write_text("{}")
    assert kind_of(tmp_path) == "run"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "is damaged: it is not UTF-8 text"),
        (b"{", "is damaged: its JSON cannot be read"),
        (b"[" * 100_000, "is damaged: its JSON cannot be read .it is nested too deeply"),
        (None, "cannot be read: Is a directory"),
    ],
)
def test_json_that_cannot_be_read_is_a_sentence(tmp_path, content, said):
    path = tmp_path / "data.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(RunError, match=said):
        read_json(path, RunError)


def test_a_cache_that_cannot_be_written_is_named_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEEKJAX_CACHE", str(tmp_path / "cache"))
    assert writable_cache("a") == tmp_path / "cache" / "a"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEEKJAX_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert writable_cache("a") is None
    assert capsys.readouterr().err.count("SEEKJAX_CACHE names another") == 1


def test_a_file_and_its_text_have_one_fingerprint(tmp_path):
    (tmp_path / "a.txt").write_text("naïve", encoding="utf-8")
    assert file_sha256(tmp_path / "a.txt") == text_sha256("naïve")
    assert text_sha256("abc").startswith("ba7816bf8f01cfea")


def test_the_environment_names_the_cache_folder(monkeypatch):
    monkeypatch.setenv("SEEKJAX_CACHE", "/somewhere/else")
    assert cache_folder() == Path("/somewhere/else")


@pytest.mark.skipif(sys.platform != "linux", reason="each platform has its own folder")
def test_the_cache_folder_on_linux(monkeypatch):
    monkeypatch.delenv("SEEKJAX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "seekjax"


def leave(folder, name, machine, age=0.0):
    """A temporary folder as a killed process leaves it."""
    path = folder / f".{name}.{machine}-0123456789ab.part"
    path.mkdir()
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_what_a_killed_writer_left_is_removed(tmp_path):
    here, elsewhere = storage._machine(), "0" * 8
    old = {leave(tmp_path, "a", here), leave(tmp_path, "a", elsewhere, 2 * storage.ABANDONED)}
    kept = {leave(tmp_path, "b", here), leave(tmp_path, "a", "1" * 8)}
    with new_folder(tmp_path / "a", RunError):
        assert not any(path.exists() for path in old)
        assert all(path.exists() for path in kept)


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_two_writers_of_one_name_never_meet(tmp_path, new):
    def write(temporary, text):
        (temporary / "x" if temporary.is_dir() else temporary).write_text(text)

    def second_while_first():
        with new(tmp_path / "a", RunError) as first:
            with new(tmp_path / "a", RunError) as second:
                write(second, "second")
            write(first, "first")

    with pytest.raises(RunError, match="is already there"):
        second_while_first()
    [written] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written.read_text() == "second"
    assert os.listdir(tmp_path) == ["a"]
