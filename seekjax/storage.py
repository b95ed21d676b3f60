"""Files that are there whole or not at all, whatever stops the program that writes them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal


def write(path: Path, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Replace the file in one rename; content is what it shall hold, or writes it into an open
    file. Raises OSError, and leaves the old file then."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def kind_of(folder: Path) -> Literal["run", "published"] | None:
    """Return what a model's folder holds: the checkpoints of a run, or a published checkpoint.

    A run folder has `checkpoints/`, a published checkpoint `config.json` at the top; None is
    neither, or a folder that does not exist.
    """
    if (folder / "checkpoints").is_dir():
        return "run"
    if (folder / "config.json").is_file():
        return "published"
    return None
