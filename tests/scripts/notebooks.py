"""Make notebooks/NAME.ipynb, with outputs, from notebooks/NAME.py.

    python -m tests.scripts.notebooks [--text] [NAME ...]

The source is the .py file, in jupytext's percent format. A notebook is written if every cell ran,
every solution of an exercise passed its check, and the outputs are fit to read. Notebooks that
train for long do so in full here; `SEEKJAX_NOTEBOOKS=quick`, as in the tests, shortens them.
"""

import argparse
import base64
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.flags import QUICK
from tests.scripts.shown_sources import refresh_sources

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))

# The picture of each notebook that notebooks/README.md shows, counted from 1.
COVERS = {
    "01_latent_attention": 4,
    "02_experts_and_balance": 4,
    "03_multi_token_prediction": 5,
    "04_sharding": 1,
    "05_train_a_model": 1,
    "06_fp8": 2,
    "08_reinforcement": 4,
    "09_open_weights": 2,
    "10_what_v3_cost": 2,
}
MOST_LINES = 25  # of a cell of code
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py"},
}
SOLUTION = re.compile(r"<summary>Solution.*?```python\n(.*?)```", re.DOTALL)
AT_HOME = re.compile(r"/(tmp|home|root|var|usr)/|site-packages")
ADDRESS = re.compile(r" at 0x[0-9a-f]{6}")


def read_source(source: Path) -> NotebookNode:
    """Return the notebook of a .py file, without outputs; the same bytes each time."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number:02d}"
        cell.source = cell.source.strip("\n")  # blank lines that a function has before it
        cell.metadata = nbformat.from_dict({})
    return notebook


def read_made(source: Path) -> NotebookNode:
    """Return the notebook that was made from a .py file, with its outputs."""
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def with_solutions(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook with a cell after each solution: its code, then the exercise's check.

    The check is the last cell of code before the solution; the student's answer has its own cell.
    """
    cells, check = [], ""
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "code":
            check = cell.source
        elif solution := SOLUTION.search(cell.source):
            assert "check(" in check, f"no check before the solution {solution[1]!r}"
            added = nbformat.v4.new_code_cell(f"{solution[1]}\n{check}")
            added.metadata["solution"] = True
            cells.append(added)
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


def execute(notebook: NotebookNode, full: bool = False, **environment: str) -> NotebookNode:
    """Run the cells and the solutions; return the notebook with outputs, without the solutions.

    Raises CellExecutionError if a cell fails, AssertionError if a solution is not right. The
    kernel starts in notebooks/, as Jupyter's does.
    """
    kernel = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    kernel["SEEKJAX_NOTEBOOKS"] = "full" if full else "quick"
    for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES"):  # what tests run with
        kernel.pop(name, None)
    if not full:  # a short training takes less time than to optimise its programs
        kernel["XLA_FLAGS"] = QUICK

    # A notebook that trains the same model twice compiles it once.
    with tempfile.TemporaryDirectory() as compiled:
        kernel |= {
            "JAX_COMPILATION_CACHE_DIR": compiled,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        }
        solved = with_solutions(notebook)
        run_cells(solved, kernel)

    for cell in solved.cells:
        if "solution" in cell.metadata:
            printed = printed_by(cell)
            assert printed.startswith("Right."), f"{cell.source}\nprinted {printed!r}"
    solved.cells = [cell for cell in solved.cells if "solution" not in cell.metadata]
    number = 0
    for cell in solved.cells:
        if cell.cell_type == "code":
            number += 1
            renumber(cell, number)
    return solved


def run_cells(notebook: NotebookNode, environment: dict[str, str]) -> None:
    """Run the cells of a notebook in a kernel of its own, which starts in notebooks/."""
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=40"],
    )
    client.execute(env=environment)


def printed_by(cell: NotebookNode) -> str:
    """Return what a cell has printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def renumber(cell: NotebookNode, number: int) -> None:
    """Count a cell as if the solutions had not been run."""
    cell.execution_count = number
    for output in cell.outputs:
        if "execution_count" in output:
            output.execution_count = number


def complaints(notebook: NotebookNode) -> list[str]:
    """Return a line for each thing that a reader should not see."""
    lines = too_long(notebook)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        first = cell.source.strip().partition("\n")[0]
        if cell.execution_count is None:
            lines.append(f"not executed: {first}")
        for output in cell.outputs:
            lines += [f"{complaint}: {first}" for complaint in complaints_of(output)]
    return lines


def too_long(notebook: NotebookNode) -> list[str]:
    """Return a line for each cell of code that is too long to read at once."""
    codes = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return [
        f"longer than {MOST_LINES} lines:\n{code}"
        for code in codes
        if len(code.splitlines()) > MOST_LINES
    ]


def complaints_of(output: NotebookNode) -> list[str]:
    """Return what is wrong with one output of a cell."""
    lines = []
    texts = [output.get("text", "")]
    texts += [data for kind, data in output.get("data", {}).items() if "text" in kind]
    together = "".join(texts)
    if output.output_type == "error":
        lines.append(f"fails with {output.evalue}")
    if output.get("name") == "stderr":
        lines.append(f"prints {together[:300]!r} on stderr")
    if AT_HOME.search(together):
        lines.append("shows a path of this machine")
    if ADDRESS.search(together):
        lines.append("ends in an object (write plt.show() after a picture)")
    return lines


def cover_file(source: Path) -> Path:
    """Return the file of the picture that stands for a notebook."""
    return FOLDER / "covers" / f"{source.stem}.png"


def write_cover(source: Path, notebook: NotebookNode) -> None:
    """Write the picture that stands for a notebook to its file."""
    pictures = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                pictures.append(output.data["image/png"])
    cover_file(source).parent.mkdir(exist_ok=True)
    cover_file(source).write_bytes(base64.b64decode(pictures[COVERS[source.stem] - 1]))


def make(source: Path, full: bool) -> None:
    """Write the .ipynb of a .py file, or exit and say what is wrong with it."""
    start = time.monotonic()
    notebook = read_source(source)
    if lines := too_long(notebook):
        sys.exit("\n".join(lines))
    notebook = execute(notebook, full)
    print(f"{source.stem}: {time.monotonic() - start:.0f} s")
    if lines := complaints(notebook):
        sys.exit("\n".join(lines))
    nbformat.validate(notebook)
    nbformat.write(notebook, source.with_suffix(".ipynb"))
    write_cover(source, notebook)


def refresh_text(source: Path) -> None:
    """Take the text of a .py file, and the functions it shows as they are now, into its .ipynb.

    Its code and its other outputs stay as they are.
    """
    fresh, made = read_source(source), read_made(source)
    kinds = [[cell.cell_type for cell in notebook.cells] for notebook in (fresh, made)]
    if kinds[0] != kinds[1]:
        sys.exit(f"{source.stem} has other cells than its .ipynb: make it without --text")
    for now, before in zip(fresh.cells, made.cells):
        if now.cell_type != "code":
            before.source = now.source
        elif now.source != before.source:
            sys.exit(f"{source.stem} has other code than its .ipynb: make it without --text")
    refresh_sources(made)
    nbformat.write(made, source.with_suffix(".ipynb"))


def main() -> None:
    """Make the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="as 01_latent_attention; all if none is named")
    parser.add_argument(
        "--text", action="store_true", help="nothing but text, and the functions shown, has changed"
    )
    arguments = parser.parse_args()
    full = os.environ.get("SEEKJAX_NOTEBOOKS", "full") == "full"
    for source in SOURCES:
        if arguments.names and source.stem not in arguments.names:
            continue
        if arguments.text:
            refresh_text(source)
        else:
            make(source, full)


if __name__ == "__main__":
    main()
