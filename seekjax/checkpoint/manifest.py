"""The manifest of a folder: size and SHA-256 of every file in it, written last.

A folder without its manifest is incomplete, and one that differs from it is damaged. Storage
formats are atomic at best, and do not detect a flipped bit; the manifest does.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from seekjax.errors import RunError
from seekjax.storage import read_json, sync, write_atomically

NAME = "manifest.json"

# The files of a run folder that its weights depend on: how text becomes tokens, and how it ends.
RUN_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
RUN_FILES_NAME = "run_files.json"


def write_manifest(folder: Path) -> None:
    """Record every file now in `folder`.

    All of them reach the disk first, then the manifest appears in one rename.
    """
    for path in (*folder.rglob("*"), folder):
        sync(path)

    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    entries = dict(zip(names, _describe(folder, names)))
    write_atomically(folder / NAME, json.dumps(entries, indent=1) + "\n", durable=True)


def write_run_files(run: Path, step: Path) -> None:
    """Record in a step's folder the files of the run that its weights depend on."""
    names = [name for name in RUN_FILES if (run / name).is_file()]
    entries = dict(zip(names, _describe(run, names)))
    (step / RUN_FILES_NAME).write_text(json.dumps(entries, indent=1) + "\n")


def changed_run_file(run: Path, step: Path) -> str | None:
    """Return which file of a run is not as it was when a step was saved, or None.

    A step of an earlier version does not have their record.
    """
    if not (step / RUN_FILES_NAME).is_file():
        return None
    entries = read_json(step / RUN_FILES_NAME, RunError)
    if not entries:
        return None
    try:
        return _difference(run, entries)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"


def damage(folder: Path) -> str | None:
    """Return what is wrong with `folder`, or None if every file is as its manifest says.

    Files that the manifest does not list are ignored.
    """
    try:
        entries = json.loads((folder / NAME).read_text())
        return _difference(folder, entries)
    except FileNotFoundError:
        return f"{NAME} is missing"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"{NAME} is damaged"  # not UTF-8, not JSON, not a table of tables


def _difference(folder: Path, entries: dict[str, Any]) -> str | None:
    """Return the first difference between a folder and its manifest."""
    if not entries:
        return f"{NAME} is empty"
    for name in entries:
        if not (folder / name).is_file():
            return f"{name} is missing"

    actual = _describe(folder, list(entries))
    for (name, entry), found in zip(entries.items(), actual):
        if entry == found:
            continue
        if entry.get("size") == found["size"]:
            return f"{name} does not match its SHA-256"
        return f"{name} is {found['size']} bytes, not {entry.get('size')}"
    return None


def _describe(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """Return size and SHA-256 of files, read in parallel.

    Hashing releases the interpreter lock, so threads are as fast as the disk or the cores allow.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(partial(_entry, folder), names))


def _entry(folder: Path, name: str) -> dict[str, Any]:
    """Return a file's entry in the manifest."""
    with open(folder / name, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.file_digest(file, "sha256")
    return {"size": size, "sha256": digest.hexdigest()}
