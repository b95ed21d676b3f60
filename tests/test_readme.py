"""Every command line of the READMEs is one that the program accepts; its Python blocks run.

`.ci/run readmes` also runs the lines, on a model of one layer.
"""

import ast
import builtins
import importlib.util
import re
import tomllib

import pytest

from seekjax.commands import common, compiled
from seekjax.commands.arguments import config_name, load_config, parse
from seekjax.commands.cli import main, run_command
from seekjax.commands.grid import find_axes
from seekjax.commands.options import read_options
from seekjax.workflow import Workflow
from tests.scripts.readme import PAGES, ROOT, blocks, command_lines, reader_files, words_of

LINES = [line for page in PAGES for line in command_lines(page)]
OURS = [line for line in LINES if words_of(line)]
OTHERS = [line for line in LINES if not words_of(line)]
PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]
LINKS = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


class Accepted(Exception):
    """Raised in place of what a command would do with its options."""


def status_of(words):
    """Return the exit status of a command line."""
    try:
        return main(words)
    except SystemExit as ended:  # after --help
        return ended.code or 0


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The folder of somebody who follows the READMEs, with the files that the lines name."""
    return reader_files(tmp_path_factory.mktemp("reader"))


@pytest.fixture
def accept(monkeypatch):
    """A function that reads the words of a command and does nothing else."""

    def stop_after_reading(*args):
        raise Accepted(read_options(*args))

    monkeypatch.setattr(common, "read_options", stop_after_reading)
    # minutes, and a compiler that is not installed
    monkeypatch.setattr(compiled, "compile_planned", lambda *_: None)

    def call(name, *words):
        asks_for_help = {"--help", "--help-all"} & {name, *words}
        printing = ("--version", "--completion", "show", "plan")
        if asks_for_help or name in printing:
            assert status_of([name, *words]) == 0
        elif name == "train":
            chosen = load_config(config_name(list(words)))
            if isinstance(chosen, Workflow) or find_axes(chosen, words):
                assert main(["train", *words, "--plan"]) == 0
            else:
                parse(list(words), "python train.py")
        else:
            with pytest.raises(Accepted):
                run_command([name, *words])

    return call


def test_every_readme_of_the_packages_is_read():
    for folder in ("seekjax", "sharding"):
        for page in (ROOT / folder).rglob("README.md"):
            assert str(page.relative_to(ROOT)) in PAGES


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_names_its_language(page):
    languages = {block.language for block in blocks(page)}
    assert languages <= {"sh", "python", "text"}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_the_project_leads_somewhere(page):
    for target in LINKS.findall((ROOT / page).read_text()):
        if not target.startswith(("http", "mailto")):
            assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("line", OURS, ids=lambda line: f"{line.place} {line}")
def test_a_command_line_is_accepted(line, reader, accept, monkeypatch):
    monkeypatch.chdir(reader)
    monkeypatch.syspath_prepend(reader)
    accept(*words_of(line))


@pytest.mark.parametrize("line", OTHERS, ids=lambda line: f"{line.place} {line}")
def test_a_line_of_another_program_names_what_exists(line):
    program, *rest = line.words
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    if program == "pip":
        extras = re.findall(r"\[(.*)\]", line.words[-1])
        named = set(extras[0].split(",")) if extras else set()
        assert named <= set(project["optional-dependencies"])
    elif program == "python" and rest[0] == "-m":
        assert rest[1] == "venv" or importlib.util.find_spec(rest[1])
    elif program == "python":
        assert (ROOT / rest[0]).exists()

    for word in rest:
        if word.startswith(("tests/", "notebooks/")):
            assert (ROOT / word).exists()


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page}:{block.line}")
def test_a_python_block_can_be_read(block):
    known, used = set(dir(builtins)), set()
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name)

        # whoever pastes a block has only what it defines itself
        if isinstance(node, ast.Name):
            names = used if isinstance(node.ctx, ast.Load) else known
            names.add(node.id)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.alias):
            known.add(node.asname or node.name)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            known.add(node.name)
    assert used <= known
