"""The functions whose source a made notebook shows, as they were then and as they are now."""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from seekjax.notebook import Source

ROOT = Path(__file__).parents[2]
SHOWN = re.compile(r"`(.*?)`\n\n```python\n(.*)\n```", re.DOTALL)  # Source._repr_markdown_


def shown_sources(notebook: NotebookNode) -> Iterator[tuple[Any, str, str]]:
    """Yield the data of each output that shows a function, its file, and the text shown."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            match = SHOWN.fullmatch(data.get("text/markdown", ""))
            if match:
                yield data, match[1], match[2]


def source_now(file: str, shown: str) -> str:
    """Return today's source of the function or class of this name in the file.

    Of several functions of one name it is the one that was shown, or else an error.
    """
    content = (ROOT / file).read_text()
    lines = content.splitlines()
    name = ast.parse(shown).body[0].name
    sources = []
    for node in ast.walk(ast.parse(content)):
        if getattr(node, "name", "") == name:
            decorators = [decorator.lineno for decorator in node.decorator_list]
            first = min([node.lineno, *decorators])
            sources.append(textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])))
    if shown in sources:
        return shown
    if len(sources) != 1:
        raise LookupError(f"{file} has {len(sources)} functions {name}: make the notebook again")
    return sources[0]


def refresh_sources(notebook: NotebookNode) -> None:
    """Show today's source of every function that a made notebook shows."""
    for data, file, shown in shown_sources(notebook):
        source = Source(file, source_now(file, shown))
        data["text/markdown"] = source._repr_markdown_()
        data["text/plain"] = repr(source)
