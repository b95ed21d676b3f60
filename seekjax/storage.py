"""Files on disk: atomic writing, SHA-256 fingerprints, and the cache folder.

Atomic writing uses a temporary name in the same folder and then renames, which file systems do in
one step: whatever stops the program, a file or folder is complete or not there.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import platformdirs

from seekjax.errors import SeekjaxError, need


def write_atomically(
    path: Path,
    content: str | bytes | Callable[[IO[bytes]], object],
    durable: bool = False,
) -> None:
    """Write a file in full, or leave the old one as it was.

    Args:
        path: The file to create or replace.
        content: Text (written as UTF-8), bytes, or a function that writes to the open file.
        durable: Also wait until contents and name are on the disk.

    Raises:
        OSError: the file cannot be written; the old file, if any, is unchanged.
    """
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            elif isinstance(content, str):
                file.write(content.encode())
            else:
                file.write(content)

        if durable:
            sync(temporary)
            rename_durably(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_file(path: Path, error: type[SeekjaxError]) -> Iterator[Path]:
    """Yield the temporary path of a file to write; rename it to `path` if the block succeeds.

    The temporary file is removed if the block fails. Raises `error` if `path` already exists or
    cannot be written.
    """
    need(not path.exists(), f"{path} is already there: name a new file.", error)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.rename(path)
    except OSError as failure:
        raise error(_cannot_write(path, failure)) from failure
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, error: type[SeekjaxError]) -> Iterator[Path]:
    """Yield the temporary path of a folder to fill; rename it to `path` if the block succeeds.

    The temporary folder is removed if the block fails. Raises `error` if `path` is a file or a
    folder with contents, or cannot be written.
    """
    empty = path.is_dir() and not any(path.iterdir())
    need(empty or not path.exists(), f"{path} is already there: name a new folder.", error)

    temporary = _temporary(path.absolute())
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    except OSError as failure:
        raise error(_cannot_write(path, failure)) from failure
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def rename_durably(source: Path, target: Path) -> None:
    """Rename, and return when the new name is on the disk."""
    source.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Return when the contents of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def _temporary(path: Path) -> Path:
    """Return a hidden name next to `path` that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def _cannot_write(path: Path, failure: OSError) -> str:
    return f"{path} cannot be written: {failure.strerror or failure}."
