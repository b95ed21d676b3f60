"""metrics.jsonl: the record of a run, an object a line. Read and mended here, without JAX."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from seekjax.errors import RunError
from seekjax.storage import write_atomically

METRICS = "metrics.jsonl"


def append(path: Path, text: str) -> None:
    """Append text to a file, in full or not at all. Raises OSError."""
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        content = text.encode()
        try:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            raise


def keep_until(path: Path, step: int) -> None:
    """Drop the lines that an interrupted start wrote beyond the step at which it is resumed.

    A line that it could not finish goes too. Raises RunError if the file cannot be read or written.
    """
    if not path.exists():
        return
    text = _text(path)
    kept = [line + "\n" for line in text.splitlines() if step_of(line) <= step]
    if "".join(kept) != text:
        try:
            write_atomically(path, "".join(kept))
        except OSError as error:
            raise RunError(
                f"{path} cannot be written ({error.strerror}): free some space, or name another "
                "--out."
            ) from error


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run, without lines that are not whole; nan where the file has null.

    Raises RunError if its metrics.jsonl cannot be read.
    """
    lines = _text(folder / METRICS).splitlines()
    return [_with_nan(json.loads(line)) for line in lines if step_of(line) < math.inf]


def newest(folder: Path, split: str) -> dict[str, Any]:
    """Return the newest record of a split; {} without any. Only its line is read as JSON.

    Raises RunError if the file is there and cannot be read.
    """
    path = folder / METRICS
    if not path.exists():
        return {}
    for line in reversed(_text(path).splitlines()):
        if f'"split": "{split}"' in line and step_of(line) < math.inf:
            return json.loads(line)
    return {}


def _with_nan(value: Any) -> Any:
    """A value of JSON with nan in place of null, as numbers that pictures leave out."""
    if isinstance(value, dict):
        return {name: _with_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_nan(part) for part in value]
    return math.nan if value is None else value


def _text(path: Path) -> str:
    """Return the text of a file of records; what is not UTF-8 makes its line no record."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunError(
            f"{path} cannot be read ({error.strerror}): it is the run's record of figures; move it "
            "away to go on without it."
        ) from error


def step_of(line: str) -> float:
    """The step of a line; infinity for a line that is not a record."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
    return step if isinstance(step, int) else math.inf
