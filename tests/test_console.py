"""What the console prints is text, also in a notebook."""

import io

import pytest
import rich.console

from seekjax.console import console


@pytest.fixture
def in_a_notebook(monkeypatch):
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)


def test_a_notebook_gets_lines_of_text(in_a_notebook):
    file = io.StringIO()
    screen = console(file)
    assert not screen.is_jupyter
    screen.print("resuming after step 3")
    assert file.getvalue() == "resuming after step 3\n"
