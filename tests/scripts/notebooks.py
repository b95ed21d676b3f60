"""Make notebooks/NAME.ipynb, with outputs, from notebooks/NAME.py.

    python -m tests.scripts.notebooks [NAME ...]

The source is the .py file, in jupytext's percent format. A notebook is written if every cell ran,
every solution of an exercise passed its check, and the outputs are fit to read. Notebooks that
train for long do so in full here; `SEEKJAX_NOTEBOOKS=quick`, as in the tests, shortens them.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))

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

    solved = with_solutions(notebook)
    client = NotebookClient(
        solved,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=40"],
    )
    client.execute(env=kernel)

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
    lines = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        first = cell.source.partition("\n")[0]
        if len(cell.source.splitlines()) > MOST_LINES:
            lines.append(f"longer than {MOST_LINES} lines: {first}")
        if cell.execution_count is None:
            lines.append(f"not executed: {first}")
        for output in cell.outputs:
            texts = [output.get("text", "")]
            texts += [data for kind, data in output.get("data", {}).items() if "text" in kind]
            if output.output_type == "error":
                lines.append(f"fails: {first}: {output.evalue}")
            if output.get("name") == "stderr":
                lines.append(f"prints on stderr: {first}: {output.text[:300]}")
            if any(isinstance(text, str) and AT_HOME.search(text) for text in texts):
                lines.append(f"shows a path of this machine: {first}")
            if any(isinstance(text, str) and ADDRESS.search(text) for text in texts):
                lines.append(f"ends in an object (write plt.show() after a picture): {first}")
    return lines


def make(source: Path, full: bool) -> None:
    """Write the .ipynb of a .py file, or exit and say what is wrong with it."""
    start = time.monotonic()
    notebook = execute(read_source(source), full)
    print(f"{source.stem}: {time.monotonic() - start:.0f} s")
    lines = complaints(notebook)
    if lines:
        sys.exit("\n".join(lines))
    nbformat.validate(notebook)
    nbformat.write(notebook, source.with_suffix(".ipynb"))


def main() -> None:
    """Make the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="as 01_latent_attention; all if none is named")
    names = parser.parse_args().names
    full = os.environ.get("SEEKJAX_NOTEBOOKS", "full") == "full"
    for source in SOURCES:
        if not names or source.stem in names:
            make(source, full)


if __name__ == "__main__":
    main()
