"""The source code of the running Python's standard library: real text on every machine, offline."""

import sysconfig
from pathlib import Path

from seekjax.config import DataConfig
from seekjax.data.files import TextFile
from seekjax.errors import DataError, need

# Tests, other people's packages, build residue, and generated tables.
SKIPPED_FOLDERS = {
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


def load(config: DataConfig) -> list[TextFile]:
    """Return every module of the standard library as one document, sorted by name.

    Raises:
        DataError: this Python was installed without its sources.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    modules = []

    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if _is_skipped(name) or not path.stat().st_size or not _is_utf8(path):
            continue
        modules.append(TextFile(path, name.as_posix(), section=None))

    need(
        modules,
        f"no Python sources in {root}; choose another source in data.sources, for instance "
        "stories.",
        DataError,
    )
    return modules


def _is_skipped(name: Path) -> bool:
    """Return whether a module, named relative to the library's folder, is left out."""
    return (
        not SKIPPED_FOLDERS.isdisjoint(name.parts)
        or name.parts[0].startswith("config-")
        or name.name.startswith("_sysconfigdata")
    )


def _is_utf8(path: Path) -> bool:
    """Return whether a file is UTF-8; the few modules that declare an older encoding are not."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError:
        return False
    return True
