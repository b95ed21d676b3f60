"""A file is replaced whole or not at all."""

import os

import pytest

from seekjax.storage import write_atomically


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
