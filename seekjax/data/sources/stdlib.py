"""The source code of the running Python's standard library: real text that is on every machine,
with no download."""

import sysconfig
from pathlib import Path

from seekjax.data.files import TextFile
from seekjax.errors import DataError

# Tests, other people's packages, build residue, and tables that a program wrote.
SKIP = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "lib2to3",
    "encodings",
    "pydoc_data",
    "_bundled",
}


def files() -> list[TextFile]:
    """Every module of the standard library, sorted by name.

    Raises:
        DataError: this Python was installed without its sources.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        skipped = (
            SKIP & set(name.parts)
            or name.parts[0].startswith("config-")
            or name.name.startswith("_sysconfigdata")
        )
        if not skipped and path.stat().st_size and _is_utf8(path):
            found.append(TextFile(path, name.as_posix(), section=None))
    if not found:
        raise DataError(
            f"no Python sources in {root}; choose another source in data.sources, for "
            "instance stories."
        )
    return found


def _is_utf8(path: Path) -> bool:
    """A few modules declare an older encoding; they are left out rather than guessed at."""
    try:
        path.read_bytes().decode()
        return True
    except UnicodeDecodeError:
        return False
