"""The manifest of a folder: size and SHA-256 of every file in it, written last, so that a folder is
whole or is not believed.

Storage formats are atomic at best; they do not notice a flipped bit. The manifest does.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seekjax.storage import sync, write_atomically

NAME = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Vouch for every file now in `folder`: all of them reach the disk first, then the manifest
    appears in one rename."""
    for path in (*folder.rglob("*"), folder):
        sync(path)
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    text = json.dumps(dict(zip(names, _describe(folder, names))), indent=1)
    write_atomically(folder / NAME, text + "\n", durable=True)


def damage(folder: Path) -> str | None:
    """What is wrong with `folder`, or None when every file is as its manifest says; files it does
    not list are ignored."""
    try:
        stated = json.loads((folder / NAME).read_text())
        missing = [name for name in stated if not (folder / name).is_file()]
        if missing or not stated:
            return f"{missing[0]} is missing" if missing else f"{NAME} is empty"
        for (name, entry), found in zip(stated.items(), _describe(folder, list(stated))):
            if entry != found:
                same_size = entry.get("size") == found["size"]
                return (
                    f"{name} does not match its SHA-256"
                    if same_size
                    else f"{name} is {found['size']} bytes, not {entry.get('size')}"
                )
    except FileNotFoundError:
        return f"{NAME} is missing"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    except (ValueError, TypeError, AttributeError):  # not UTF-8, not JSON, not a table of tables
        return f"{NAME} is damaged"
    return None


def _describe(folder: Path, names: list[str]) -> list[dict]:
    def one(name: str) -> dict:
        with open(folder / name, "rb") as file:
            return {
                "size": os.fstat(file.fileno()).st_size,
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            }

    with (
        ThreadPoolExecutor() as pool
    ):  # hashing lets go of the interpreter lock: as fast as the disk or the cores allow
        return list(pool.map(one, names))
