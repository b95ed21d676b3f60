"""Files from strangers: sizes are limited before reading, and JSON before parsing."""

import json
import stat
from pathlib import Path
from typing import Any

from seekjax.errors import WeightsError, need

JSON_BYTES = 2**20  # of a config.json or tokenizer_config.json
UNLIMITED = 2**62


def file_size(path: Path, most: int = UNLIMITED) -> int:
    """Return the bytes of a file. Raises WeightsError unless it is regular and not too large."""
    try:
        status = path.stat()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error
    need(stat.S_ISREG(status.st_mode), f"{path} is not a regular file.", WeightsError)
    need(
        status.st_size <= most,
        f"{path} has {status.st_size} bytes: at most {most} are read.",
        WeightsError,
    )
    return status.st_size


def read_json(path: Path, most: int = JSON_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file of at most `most` bytes. Raises WeightsError."""
    file_size(path, most)
    return parse_json(path.read_bytes(), path)


def parse_json(text: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object in a text that was read from `path`.

    Raises WeightsError if it is not an object, repeats a name, or is mostly brackets: empty lists
    and objects would take twenty times their size in memory.
    """
    brackets = text.count(b"[") + text.count(b"{")
    need(
        brackets <= len(text) // 12 + 8,
        f"{path} is not what it should be: its JSON is mostly brackets.",
        WeightsError,
    )
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats)
    except WeightsError as error:
        raise WeightsError(f"{path} {error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged: its JSON cannot be read.") from error
    need(isinstance(parsed, dict), f"{path} does not hold a JSON object.", WeightsError)
    return parsed


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. Raises WeightsError if two have the same name."""
    table = dict(pairs)
    need(len(table) == len(pairs), "uses one name twice.", WeightsError)
    return table
