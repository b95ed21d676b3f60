"""Rows of .jsonl files, and the checks of what they hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from seekjax.data import DataError
from seekjax.data.chat import Message
from seekjax.data.files import JsonLines
from seekjax.data.tokenizer import find_special_token
from seekjax.errors import need

ROLES = ("system", "user", "assistant")


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
    need(
        path.suffix == ".jsonl" and path.is_file(),
        f"{name} is not a .jsonl file: {field} takes only those.",
        DataError,
    )
    rows = Rows(path, name)
    need(len(rows), f"{name} is empty: write one JSON object a line.", DataError)
    return rows


def check_messages(value: Any, where: str) -> list[Message]:
    """Return the messages of a conversation, checked. Raises DataError."""
    need(
        isinstance(value, list) and value,
        f'{where} has no conversation under "messages": write [{{"role": "user", "content": ...}}, '
        "...].",
        DataError,
    )

    checked = []
    for number, message in enumerate(value, 1):
        turn = f"{where}, message {number},"
        role = message.get("role") if isinstance(message, dict) else None
        stated = f"the role {role!r}" if isinstance(role, str) else "no role"
        need(
            isinstance(role, str) and role in ROLES,
            f"{turn} has {stated}: roles are {', '.join(ROLES)}.",
            DataError,
        )
        content = check_text(message.get("content"), f"{turn} the {role}'s content")
        checked.append({"role": role, "content": content})
    return checked


def check_text(value: Any, where: str) -> str:
    """Return the text of a message, checked. Raises DataError."""
    need(value is not None, f"{where} is missing.", DataError)
    need(isinstance(value, str), f"{where} is a {type(value).__name__}, not text.", DataError)
    need(value.strip(), f"{where} is empty.", DataError)

    # Text that is not what it seems
    special = find_special_token(value)
    need(
        special is None,
        f"{where} spells {special}, which would become that token: write it differently.",
        DataError,
    )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a character (\\u{ord(value[error.start]):04x}): repair it."
        ) from error
    return value
