"""Files on disk: atomic replacement, SHA-256 fingerprints, and the cache folder."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

import platformdirs


def write_atomically(path: Path, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file in full, or leave the old one as it was.

    Args:
        path: The file to create or replace.
        content: Text (written as UTF-8), bytes, or a function that writes to the open file.

    Raises:
        OSError: the file cannot be written; the old file, if any, is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            elif isinstance(content, str):
                file.write(content.encode())
            else:
                file.write(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def cache_folder() -> Path:
    """Return the folder for trained tokenizers and compiled programs.

    It is $SEEKJAX_CACHE if that is set, otherwise the platform's own: ~/.cache/seekjax on Linux.
    """
    override = os.environ.get("SEEKJAX_CACHE")
    if override:
        return Path(override)
    return platformdirs.user_cache_path("seekjax", appauthor=False)
