"""Documents in the user's own files: text, JSON lines, Parquet and ArrayRecord.

Every class here is a sequence of documents (`len(file)`, `file[row] -> str`) that can be read from
several threads and sent to another process: it keeps a path and an index, never an open handle. A
document is checked when it is read, and `load_corpus` reads each one once before training.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from seekjax.errors import DataError
from seekjax.extras import import_extra


@dataclass
class DocumentFile:
    """What all formats share. `name` is how messages and the manifest call the file; `text_field`
    is the column or key that holds the text.
    """

    path: Path
    name: str
    text_field: str = "text"

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, row: int) -> str:
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def __getstate__(self) -> dict:
        """What `cached_property` opened or read stays behind when the file is sent to another
        process, which opens its own.
        """
        return {
            key: value
            for key, value in self.__dict__.items()
            if not isinstance(getattr(type(self), key, None), cached_property)
        }


@dataclass
class TextFile(DocumentFile):
    """UTF-8 text, one document. A longer one is cut at line starts into sections that count as
    documents: otherwise a single book could be neither shuffled nor split into training and
    held-out text.
    """

    section: int | None = 16_000  # bytes from which a section may end; None = never
    sections: list[tuple[int, int]] = field(init=False, repr=False)  # byte offset and bytes of each

    def __post_init__(self):
        self.sections, start, end = [], 0, 0
        with _reading(self.name), self.path.open("rb") as stream:
            for line in stream:
                end += len(line)
                if self.section and end - start >= self.section:
                    self.sections.append((start, end - start))
                    start = end
        if end > start:
            self.sections.append((start, end - start))
        if not self.sections:
            raise DataError(
                f"{self.name} is empty; remove it from data.sources or put text into it."
            )

    def __len__(self) -> int:
        return len(self.sections)

    def __getitem__(self, row: int) -> str:
        return _decode(_read(self, *self.sections[row]), self.name)


@dataclass
class JsonLines(DocumentFile):
    """One JSON object a line, found by its byte offset."""

    lines: np.ndarray = field(
        init=False, repr=False
    )  # int64 [documents, 3]: line number from 1, byte offset, bytes

    def __post_init__(self):
        lines, offset = [], 0
        with _reading(self.name), self.path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    lines.append((number, offset, len(line)))
                offset += len(line)
        if not lines:
            raise DataError(f"{self.name} is empty; a .jsonl file needs one JSON object a line.")
        self.lines = np.array(lines, np.int64)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, row: int) -> str:
        number, offset, size = map(int, self.lines[row])
        return self._parse(_read(self, offset, size), number)

    def __iter__(self) -> Iterator[str]:
        """The same documents in one pass, without opening the file for each."""
        with _reading(self.name), self.path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield self._parse(line, number)

    def _parse(self, line: bytes, number: int) -> Any:
        return _text_of(self.record(line, number), self.text_field, f"{self.name} line {number}")

    def record(self, line: bytes, number: int) -> Any:
        """What a line says. Raises DataError."""
        where = f"{self.name} line {number}"
        try:
            return json.loads(_decode(line, where))
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where} is not valid JSON ({error.msg} at column {error.colno}); the "
                "file may be truncated: "
                "repair or delete that line."
            ) from error


class Parquet(DocumentFile):
    """The rows of one text column, held in memory: for a corpus larger than memory use ArrayRecord,
    which is read in place.
    """

    @cached_property
    def column(self):
        parquet = import_extra("pyarrow.parquet", "parquet", self.name, DataError)
        pyarrow = import_extra("pyarrow", "parquet", self.name, DataError)
        try:
            with parquet.ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                if self.text_field not in names:
                    raise DataError(
                        f"{self.name} has no column {self.text_field!r}; set "
                        f"data.text_field to one of: {', '.join(names)}."
                    )
                column = file.read(columns=[self.text_field]).column(0)
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise DataError(
                f"{self.name} is not a readable Parquet file ({reason}); it may be "
                "truncated: write or copy it again."
            ) from error
        if not (pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)):
            raise DataError(
                f"{self.name} column {self.text_field!r} holds {column.type}, not text; "
                "set data.text_field to a string column."
            )
        if len(column) == 0:
            raise DataError(f"{self.name} has no rows; remove it from data.sources.")
        return column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: int) -> str:
        try:
            text = self.column[row].as_py()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.name} row {row} is not UTF-8 text; convert it to UTF-8."
            ) from error
        if text is None:
            raise DataError(
                f"{self.name} row {row} has no text in column {self.text_field!r}; drop such rows."
            )
        return text


class ArrayRecord(DocumentFile):
    """Records of UTF-8 text, or of JSON objects with the text under `text_field`, read in place."""

    @cached_property
    def reader(self):
        module = import_extra(
            "array_record.python.array_record_module", "arrayrecord", self.name, DataError
        )
        with self._checked():
            reader = module.ArrayRecordReader(str(self.path))
            if reader.num_records() == 0:
                # a damaged file also claims to have no records; only reading says why
                reader.read_all()
                raise DataError(f"{self.name} has no records; remove it from data.sources.")
        return reader

    def __len__(self) -> int:
        return self.reader.num_records()

    def __getitem__(self, row: int) -> str:
        where = f"{self.name} record {row}"
        with self._checked():
            [record] = self.reader.read([row])
        text = _decode(record, where)
        if not text.startswith("{"):
            return text
        try:
            parsed = json.loads(text)
        except json.JSONDecodeError:  # text that merely begins with a brace
            return text
        return _text_of(parsed, self.text_field, where)

    @contextmanager
    def _checked(self):
        try:
            yield
        except (RuntimeError, OSError, IndexError) as error:
            reason = str(error).split(";")[0].rstrip(".")
            raise DataError(
                f"{self.name} is not a readable ArrayRecord file ({reason}); it may be "
                "truncated: write or copy it again."
            ) from error


FORMATS = {
    ".txt": TextFile,
    ".jsonl": JsonLines,
    ".parquet": Parquet,
    ".arrayrecord": ArrayRecord,
    ".array_record": ArrayRecord,
}


def open_path(path: Path, text_field: str) -> list[DocumentFile]:
    """The document files at an existing path: the file itself, or every file of a known format
    below a folder, sorted by name, hidden ones left out.

    Raises:
        DataError: there is none of a known format.
    """
    known = ", ".join(FORMATS)
    if path.is_file():
        if path.suffix not in FORMATS:
            raise DataError(f"{path} has an unknown format; convert it to one of {known}.")
        return [FORMATS[path.suffix](path, str(path), text_field)]
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix in FORMATS
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise DataError(
            f"the folder {path} holds no file of a known format; it needs at least one of {known}."
        )
    return [FORMATS[file.suffix](file, str(file), text_field) for file in found]


def _text_of(record, text_field: str, where: str) -> str:
    if not isinstance(record, dict):
        raise DataError(
            f"{where} is a JSON {type(record).__name__}, not an object; write "
            f"{{{json.dumps(text_field)}: ...}}."
        )
    if text_field not in record:
        raise DataError(
            f"{where} has no key {text_field!r}; set data.text_field to one of: "
            f"{', '.join(record) or 'none, the object is empty'}."
        )
    if not isinstance(record[text_field], str):
        raise DataError(
            f"{where} has a {type(record[text_field]).__name__} under {text_field!r}, not "
            "a string; set data.text_field to a text key."
        )
    return record[text_field]


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8 text (byte {error.start}); convert it to UTF-8."
        ) from error


def _read(file: DocumentFile, offset: int, size: int) -> bytes:
    """Opened for each read: a handle could be shared neither between threads nor with another
    process.
    """
    with _reading(file.name), file.path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


@contextmanager
def _reading(name: str):
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{name} cannot be read ({error.strerror}); check the path and its permissions."
        ) from error
