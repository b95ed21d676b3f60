"""Names of objects outside this package."""

import sys

import pytest

from seekjax.errors import ConfigError
from seekjax.registry import is_foreign, load_object


def test_a_module_of_the_current_folder_is_found(tmp_path, monkeypatch):
    # An installed console script does not put the current folder on sys.path.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "an_idea_of_this_folder.py").write_text("ANSWER = 42\n")
    assert load_object("an_idea_of_this_folder:ANSWER", "number") == 42


def test_an_installed_module_comes_before_one_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fractions.py").write_text("raise ImportError('the wrong module')\n")
    monkeypatch.delitem(sys.modules, "fractions", raising=False)
    assert load_object("fractions:Fraction", "number").__module__ == "fractions"


def test_what_cannot_be_imported_is_said_with_its_reason():
    with pytest.raises(ConfigError, match="ModuleNotFoundError: No module named 'no_such_idea'"):
        load_object("no_such_idea:score", "router score")
    with pytest.raises(ConfigError, match="math does not define no_such_function"):
        load_object("math:no_such_function", "router score")


@pytest.mark.parametrize("name", ["a:b", "a.b.c:d"])
def test_module_and_name_are_foreign(name):
    assert is_foreign(name)


@pytest.mark.parametrize("name", ["a", "a:b.txt", "dir/a:b", ":b", "a:", "1a:b"])
def test_other_names_are_not_foreign(name):
    assert not is_foreign(name)
