"""Measure how densely the source is written, beside the limits that the project set itself.

    python -m tests.scripts.density [FOLDER OR FILE ...]

Prints one row per folder. These are signs, not goals: a number over its limit says where to look.
"""

import ast
import io
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
SOURCES = ("seekjax", "sharding", "configs", "train.py")

# The limits: of the whole source, of one file, and of one folder.
MOST_TOKENS = 8.2  # per line of code
MOST_COMPREHENSIONS = 25  # per 1,000 lines
MOST_SOLID = 0.25  # of the bodies of LONG lines or more, those without a blank line
MOST_LINES = 400  # of a file
MOST_SHARE = 0.15  # of the source in one folder
MOST_COLUMNS = 100

LONG = 15
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SILENT = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


@dataclass
class Density:
    """Counts over some files."""

    lines: int = 0
    code_lines: int = 0  # lines with at least one token that is not part of a docstring
    tokens: int = 0
    comprehensions: int = 0
    long_bodies: int = 0
    solid_bodies: int = 0  # long bodies without a blank line
    wide_lines: int = 0

    def add(self, other: "Density") -> None:
        """Add the counts of other files."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def tokens_per_line(self) -> float:
        """Tokens per line of code."""
        return self.tokens / max(self.code_lines, 1)

    @property
    def comprehensions_per_thousand(self) -> float:
        """Comprehensions per 1,000 lines."""
        return 1000 * self.comprehensions / max(self.lines, 1)

    @property
    def solid_share(self) -> float:
        """Share of the long bodies that have no blank line."""
        return self.solid_bodies / max(self.long_bodies, 1)


def measure(path: Path) -> Density:
    """Count one file."""
    text = path.read_text()
    lines = text.splitlines()
    tree = ast.parse(text)
    prose = docstring_lines(tree)

    code_lines: set[int] = set()
    tokens = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in SILENT or token.start[0] in prose:
            continue
        tokens += 1
        code_lines |= set(range(token.start[0], token.end[0] + 1))

    found = Density(lines=len(lines), code_lines=len(code_lines), tokens=tokens)
    found.wide_lines = sum(len(line) > MOST_COLUMNS for line in lines)
    for node in ast.walk(tree):
        if isinstance(node, COMPREHENSIONS):
            found.comprehensions += 1
        if isinstance(node, ast.FunctionDef):
            body = body_lines(node, lines)
            if len(body) >= LONG:
                found.long_bodies += 1
                found.solid_bodies += all(line.strip() for line in body)
    return found


def docstring_lines(tree: ast.AST) -> set[int]:
    """The numbers of the lines that docstrings take."""
    numbers: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            numbers |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return numbers


def body_lines(node: ast.FunctionDef, lines: list[str]) -> list[str]:
    """The lines of a function's body, its docstring left out."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    if not body:
        return []
    return lines[body[0].lineno - 1 : node.end_lineno]


def source_files(names: list[str]) -> list[Path]:
    """The Python files of these folders and files."""
    files: list[Path] = []
    for name in names:
        path = ROOT / name
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return files


def folder_of(path: Path) -> str:
    """The folder whose size counts for a file: its own, without its subfolders."""
    return str(path.parent.relative_to(ROOT))


def by_folder(files: list[Path]) -> dict[str, Density]:
    """The counts of each folder, and of all files as "all"."""
    table: dict[str, Density] = {"all": Density()}
    for path in files:
        density = measure(path)
        table.setdefault(folder_of(path), Density()).add(density)
        table["all"].add(density)
    return table


def main(names: list[str]) -> None:
    """Print the table."""
    files = source_files(names or list(SOURCES))
    densities = by_folder(files)

    table = Table(
        "folder", "lines", "share", "tokens / code line", "comprehensions / 1,000", "solid"
    )
    for folder, density in sorted(densities.items(), key=lambda item: item[1].lines):
        share = density.lines / densities["all"].lines
        table.add_row(
            folder,
            f"{density.lines:,}",
            f"{share:.1%}",
            f"{density.tokens_per_line:.2f}",
            f"{density.comprehensions_per_thousand:.0f}",
            f"{density.solid_bodies} of {density.long_bodies}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"limits: {MOST_TOKENS} tokens, {MOST_COMPREHENSIONS} comprehensions, "
        f"{MOST_SOLID:.0%} solid; "
        f"{densities['all'].wide_lines} lines over {MOST_COLUMNS} columns"
    )
    for path in files:
        count = len(path.read_text().splitlines())
        if count > MOST_LINES:
            console.print(f"{path.relative_to(ROOT)} has {count} lines, over {MOST_LINES}")


if __name__ == "__main__":
    main(sys.argv[1:])
