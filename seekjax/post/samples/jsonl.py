"""Rows of .jsonl files; row.py has what they may hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from seekjax.data import DataError
from seekjax.data.compressed import UNPACKERS
from seekjax.data.files import JsonLines
from seekjax.errors import need


class Rows(JsonLines):
    """The objects of a .jsonl file, by row."""

    def __getitem__(self, row: int) -> dict[str, Any]:
        return super().__getitem__(row)

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each row with its object, in one pass over the file."""
        for row, record in enumerate(self):
            yield row, cast(dict[str, Any], record)

    def name_of(self, row: int) -> str:
        """Return the name of a row for messages, as "FILE line 3"."""
        return self._where(int(self.lines[row][0]))

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        record = self.record(line, number)
        need(
            isinstance(record, dict),
            f"{self._where(number)} is a JSON {type(record).__name__}, not an object.",
            DataError,
        )
        return record


def open_rows(name: str, field: str) -> Rows:
    """Open a .jsonl file that the config names in `field`. Raises DataError."""
    path = Path(name).expanduser()
    need(path.exists(), f"{name} is not there: {field} takes .jsonl files.", DataError)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_jsonl = suffixes[-1:] == [".jsonl"]
    if suffixes[-2:-1] == [".jsonl"]:
        is_jsonl |= suffixes[-1] in UNPACKERS
    need(
        is_jsonl and path.is_file(),
        f"{name} is not a .jsonl file: {field} takes only those.",
        DataError,
    )
    rows = Rows(path, name)
    need(len(rows), f"{name} is empty: write one JSON object a line.", DataError)
    return rows
