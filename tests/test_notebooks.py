"""Each notebook is what its source says, reads well, and runs; its asserts are the test."""

import pytest

from tests.scripts.notebooks import (
    FOLDER,
    SOLUTION,
    SOURCES,
    complaints,
    cover_file,
    execute,
    read_made,
    read_source,
)
from tests.scripts.shown_sources import shown_sources, source_now

NAMES = [source.stem for source in SOURCES]
UNWANTED = ("simply", " just ", "obviously")


def test_every_notebook_has_a_source():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_the_cells_are_those_of_the_source(source):
    assert cells(read_made(source)) == cells(read_source(source)), (
        f"make it again: python -m tests.scripts.notebooks {source.stem}"
    )


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_the_outputs_are_fit_to_read(source):
    notebook = read_made(source)
    assert not complaints(notebook)
    assert any("image/png" in str(cell.get("outputs", "")) for cell in notebook.cells)


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_the_functions_shown_are_todays(source):
    for _, file, shown in shown_sources(read_made(source)):
        assert shown == source_now(file, shown), (
            f"python -m tests.scripts.notebooks --text {source.stem}"
        )


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_the_table_of_contents_shows_a_picture(source):
    contents = (FOLDER / "README.md").read_text()
    assert f"]({source.stem}.ipynb)" in contents
    assert f'src="covers/{source.stem}.png"' in contents
    assert cover_file(source).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_the_text_is_for_students(source):
    text = source.read_text()
    assert len(SOLUTION.findall(text.replace("\n# ", "\n"))) >= 2
    assert not [word for word in UNWANTED if word in text.lower()]


@pytest.mark.slow
@pytest.mark.notebooks
@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_the_notebook_runs(source):
    execute(read_source(source))
