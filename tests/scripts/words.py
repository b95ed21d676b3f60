"""Find words that this project does not use in its docstrings, comments and messages.

    python -m tests.scripts.words [FOLDER OR FILE ...]

CONTRIBUTING.md has the rules and a glossary. Exits with status 1 if it finds any.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.scripts.density import ROOT, SOURCES, source_files

# pattern -> what to write instead
INSTEAD = {
    r"(?<![Tt]here )\b(is|are) (no|none)\b": "is not a, are not, without",
    r"\bso (many|much)\b(?! (that|as))": "n of them, this many, as many as given",
    r"\blikeliest\b": "most likely",
    r"\bbeside\b": "next to",
    r"\banew\b": "again, from scratch",
    r"\bwhoever\b": "the caller, the user",
    r"\b(some|no)body\b": "a person, a user; not anyone",
    r"\bdearly\b": "strongly",
    r"\bold friend\b": "cache key",
    r"\bas far as .* of use\b": "clipped",
    r"\bwill not have it\b": "rejects it",
    r"\bon and on\b": "repeatedly",
    r"\bthinks\b": "computes, predicts",
    r"\bbelieve[sd]?\b": "trust, check",
    r"\bspeaks?\b": "names, handles",
    r"\bknows\b": "has, holds, contains",
    r"\bwants\b": "requires, expects",
    r"\btold\b": "passed, given",
    r"\b(is|was|were|be) met\b": "found, reached",
    r"\blooks on\b": "records",
    r"\bstands\b(?! for)": "is, lies",
    r"\balike\b": "equal, the same",
    r"\bdealt\b": "split, assigned",
    r"\bremembers?\b": "keeps, stores",
    r"\bJSON-able\b": "JSON-serialisable",
    r"\bthat is none\b": "that is invalid",
}

ANY = re.compile("|".join(INSTEAD))

# Docstrings begin with an imperative sentence or name the thing, not with these.
OPENINGS = re.compile(r"(What|Whether|How|Of|Where|Whom?|Which) ")


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every comment and string of a file."""
    source = path.read_text()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or token.type == getattr(
            tokenize, "FSTRING_MIDDLE", None
        ):
            yield token.start[0], token.string


def openings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, first words) of every function's docstring with a wrong opening."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node)
            if docstring and OPENINGS.match(docstring):
                yield node.lineno, docstring.split("\n")[0]


def find(path: Path) -> list[str]:
    """Return a line for each word of a file that has a plainer one."""
    name = path.relative_to(ROOT)
    lines = []
    # Most files have none of them anywhere, and need not be split into tokens.
    suspects = texts(path) if ANY.search(path.read_text()) else []
    for number, text in suspects:
        for pattern, instead in INSTEAD.items():
            match = re.search(pattern, text)
            if match:
                at = number + text[: match.start()].count("\n")
                lines.append(f"{name}:{at}: {match.group()!r}: write {instead}")
    for number, opening in openings(path):
        lines.append(f"{name}:{number}: {opening!r}: begin with a verb, as in 'Return ...'")
    return lines


def main(names: list[str]) -> int:
    """Print what was found; return the exit status."""
    found = []
    for path in source_files(names or list(SOURCES)):
        found += find(path)
    print("\n".join(found) or "every word is in order")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
