"""The rules of the house: who imports whom, how densely it is written, and in which words.

`python -m tests.scripts.density` and `python -m tests.scripts.words` print what these tests check.
"""

import ast
import subprocess
import sys

import pytest

from tests.scripts import density, words
from tests.scripts.density import ROOT, SOURCES, source_files

FILES = source_files(list(SOURCES))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]


def test_imports_follow_the_contract():
    # A process of its own: the linter's console would keep pytest's capture of this test.
    code = "import sys; from importlinter import cli; sys.exit(cli.lint_imports(no_cache=True))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout


@pytest.fixture(scope="module")
def densities():
    return density.by_folder(FILES)


def test_one_idea_a_line(densities):
    source = densities["all"]
    assert source.tokens_per_line <= density.MOST_TOKENS
    assert source.comprehensions_per_thousand <= density.MOST_COMPREHENSIONS
    assert source.solid_share <= density.MOST_SOLID
    assert source.wide_lines == 0


def test_no_folder_holds_more_than_its_share(densities):
    lines = densities["all"].lines
    shares = {name: folder.lines / lines for name, folder in densities.items() if name != "all"}
    largest = max(shares, key=lambda folder: shares[folder])
    assert shares[largest] <= density.MOST_SHARE, largest


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_have_one_subject(path):
    assert len(path.read_text().splitlines()) <= density.MOST_LINES


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_words_are_plain(path):
    assert not words.find(path)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_mesh_axes_are_named_in_sharding_alone(path):
    if ROOT / "seekjax" in path.parents:
        text = path.read_text()
        constants = {
            node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)
        }
        assert not constants & {"fsdp", "tensor"}
        assert "PartitionSpec" not in text
