"""Files on disk: atomic writing, SHA-256 fingerprints, and the cache folder.

Atomic writing uses a temporary name in the same folder and then renames, which file systems do in
one step: whatever stops the program, a file or folder is complete or not there.

A temporary name is `.NAME.MACHINE-RANDOM.part`. Its maker holds a lock on it, which ends with the
process however it ends, so that the next writer of NAME can remove what a killed one left.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

import platformdirs

from seekjax.errors import SeekjaxError, need

# Seconds without a change after which the leftovers of another machine count as abandoned: whether
# locks reach over machines depends on the file system.
ABANDONED = 24 * 3600


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
    with _temporary_file(path) as temporary:
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


@contextmanager
def new_file(path: Path, error: type[SeekjaxError]) -> Iterator[Path]:
    """Yield the temporary path of a file to write; rename it to `path` if the block succeeds.

    The temporary file is removed if the block fails, and what a killed writer of `path` left before
    it begins. Raises `error` if `path` already exists or cannot be written.
    """
    need(not path.exists(), _taken(path, "file"), error)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        with _temporary_file(path) as temporary:
            yield temporary
            need(not path.exists(), _taken(path, "file"), error)
            temporary.rename(path)
    except OSError as failure:
        raise error(_cannot_write(path, failure)) from failure


@contextmanager
def new_folder(path: Path, error: type[SeekjaxError]) -> Iterator[Path]:
    """Yield the temporary path of a folder to fill; rename it to `path` if the block succeeds.

    The temporary folder is removed if the block fails, and what a killed writer of `path` left
    before it begins. Raises `error` if `path` is a file or a folder with contents, or cannot be
    written.
    """
    path = path.absolute()
    need(_is_free(path), _taken(path, "folder"), error)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        temporary, lock = _locked(path, Path.mkdir)
        try:
            yield temporary
            need(_is_free(path), _taken(path, "folder"), error)
            if path.exists():
                path.rmdir()
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(lock)
    except OSError as failure:
        raise error(_cannot_write(path, failure)) from failure


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files and folders that killed writers left in a folder.

    `name`: only those of this file or folder. What a living process writes stays, and what another
    machine wrote stays for a day after its last change.
    """
    of_names = ".+" if name is None else re.escape(name)
    form = re.compile(rf"\.{of_names}\.(?P<machine>[0-9a-f]+)-[0-9a-f]+\.part")
    for path in folder.iterdir():
        match = form.fullmatch(path.name)
        if match is not None:
            with suppress(OSError):  # another process renames it, or another user owns it
                _remove_abandoned(path, match["machine"])


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

    A run folder has `checkpoints/`, or `data.json` if it has not saved yet; a published checkpoint
    has `config.json` at the top; None is neither, or a folder that does not exist.
    """
    if (folder / "checkpoints").is_dir() or (folder / "data.json").exists():
        return "run"
    if (folder / "config.json").is_file():
        return "published"
    return None


def read_json(path: Path, error: type[SeekjaxError]) -> Any:
    """Return what the JSON of a file holds. Raises `error` if that cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise error(f"{path} cannot be read: {failure.strerror}.") from failure
    except UnicodeDecodeError as failure:
        raise error(f"{path} is damaged: it is not UTF-8 text.") from failure
    except (ValueError, RecursionError) as failure:
        reason = "it is nested too deeply" if isinstance(failure, RecursionError) else failure
        raise error(f"{path} is damaged: its JSON cannot be read ({reason}).") from failure


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


def writable_cache(name: str) -> Path | None:
    """Return a folder in the cache folder, made; None, with a note once, if it cannot be written.

    The cache saves time and nothing depends on it.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        _note_no_cache(cache_folder())
        return None
    return folder


@cache
def _note_no_cache(folder: Path) -> None:
    """Print that the cache cannot be used."""
    print(
        f"note: the cache folder {folder} cannot be written, so the next start takes as long as "
        "this one; SEEKJAX_CACHE names another",
        file=sys.stderr,
    )


@contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """Yield a new hidden file next to `path`; remove it unless the block renames it."""
    temporary, lock = _locked(path, Path.touch)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)


def _locked(path: Path, make: Callable[[Path], object]) -> tuple[Path, int]:
    """Make a hidden file or folder next to `path`; return its path and the lock to close."""
    while True:
        temporary = path.with_name(f".{path.name}.{_machine()}-{secrets.token_hex(6)}.part")
        make(temporary)
        lock = os.open(temporary, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            return temporary, lock  # a file system without locks

        # Another process may have taken it for abandoned before it was locked.
        if temporary.exists():
            return temporary, lock
        os.close(lock)


def _remove_abandoned(path: Path, machine: str) -> None:
    """Remove a temporary file or folder unless its maker may be alive."""
    age = time.time() - path.stat().st_mtime
    if machine != _machine() and age < ABANDONED:
        return

    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while the maker is alive
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(lock)


@cache
def _machine() -> str:
    """Return eight digits for the running kernel, which all containers on it share."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        name = platform.node()
    return text_sha256(name)[:8]


def _is_free(folder: Path) -> bool:
    """Return whether a folder can appear here: nothing is there, or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _taken(path: Path, kind: str) -> str:
    return f"{path} is already there: name a new {kind}."


def _cannot_write(path: Path, failure: OSError) -> str:
    return f"{path} cannot be written: {failure.strerror or failure}."
