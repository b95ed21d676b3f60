"""Documents in the user's own files: text, JSON lines, Parquet and ArrayRecord.

Every class here is a sequence of documents (`len(file)`, `file[row] -> str`) that several threads
can read and that can be sent to another process: what `cached_property` opened is left behind. A
document is checked when it is read, and `load_corpus` reads each one once before training. A file
that changes after that is refused, so that a run reads what its data.json records.

Grain's own sources are not enough here. Its Parquet reader is sequential, and its ArrayRecord
reader reports neither a damaged file nor a missing package in the user's terms.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from seekjax.data.compressed import UNPACKERS, unpack
from seekjax.errors import DataError, need
from seekjax.extras import import_extra
from seekjax.storage import file_sha256

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # that some editors write before UTF-8


class Status(NamedTuple):
    """What a file system records of a file, which differs after every change."""

    size: int
    modified: int  # nanoseconds
    inode: int

    @classmethod
    def of(cls, result: os.stat_result) -> "Status":
        """Return the status in the result of `stat`."""
        return cls(result.st_size, result.st_mtime_ns, result.st_ino)


@dataclass
class DocumentFile(Sequence[str]):
    """A file of documents. Each format defines `__len__` and `__getitem__`."""

    path: Path
    name: str  # of the file in messages and in the manifest
    text_field: str = "text"  # column or key that holds the text
    status: Status = field(init=False, repr=False)
    sha256: str | None = field(init=False, repr=False, default=None)  # recorded by `facts`

    def __post_init__(self):
        with _reading(self.name):
            self.status = Status.of(self.path.stat())

    def facts(self) -> dict[str, Any]:
        """Return what the manifest of a run records of this file: name, bytes and SHA-256.

        Call it after all documents were read. Raises DataError if the file has changed meanwhile.
        """
        with _reading(self.name):
            self.sha256 = file_sha256(self.path)
        self.need_unchanged(same_content=False)
        return {"name": self.name, "bytes": self.status.size, "sha256": self.sha256}

    def need_unchanged(self, status: Status | None = None, same_content: bool = True) -> None:
        """Raise DataError if the file's status, now or of an open handle, is another.

        With `same_content`, a file that was only touched or copied is accepted by its SHA-256.
        """
        with _reading(self.name):
            status = status or Status.of(self.path.stat())
            if status == self.status:
                return
            if same_content and self.sha256 and file_sha256(self.path) == self.sha256:
                self.status = status
                return
        raise DataError(
            f"{self.name} was changed while this run reads it (from {self.status.size:,} to "
            f"{status.size:,} bytes); put the old file back, or start a new run on the new one."
        )

    @contextmanager
    def stream(self) -> Iterator[BinaryIO]:
        """Open the unpacked contents. Raises DataError if the file is gone or changed.

        A handle that stays open could be shared neither between threads nor with another process.
        """
        if self.path.suffix.lower() in UNPACKERS:
            yield io.BytesIO(self.unpacked)
            return
        with _reading(self.name), self.path.open("rb") as stream:
            self.need_unchanged(Status.of(os.fstat(stream.fileno())))
            yield stream

    @cached_property
    def unpacked(self) -> bytes:
        """The contents of a compressed file."""
        self.need_unchanged()
        with _reading(self.name):
            return unpack(self.path, self.name)

    def read(self, offset: int, size: int) -> bytes:
        """Return some bytes of the unpacked contents."""
        with self.stream() as stream:
            stream.seek(offset)
            return stream.read(size)

    def __iter__(self) -> Iterator[str]:
        for row in range(len(self)):
            yield self[row]

    def __getstate__(self) -> dict:
        """Return the attributes without cached ones: another process opens its own handles."""
        state = {}
        for key, value in self.__dict__.items():
            if not isinstance(getattr(type(self), key, None), cached_property):
                state[key] = value
        return state


@dataclass
class TextFile(DocumentFile):
    """A file of UTF-8 text: one document, or several sections if it is long.

    A long text is cut at line starts into sections that count as documents. Otherwise a single book
    could be neither shuffled nor split into training and held-out text.
    """

    section: int | None = 16_000  # bytes after which a section ends at the next line; None = never
    sections: list[tuple[int, int]] = field(init=False, repr=False)  # byte offset, bytes

    def __post_init__(self):
        super().__post_init__()
        self.sections = []
        start = 0
        end = 0

        with self.stream() as stream:
            for line in stream:
                end += len(line)
                if self.section and end - start >= self.section:
                    self.sections.append((start, end - start))
                    start = end

        if end > start:
            self.sections.append((start, end - start))

    def __len__(self) -> int:
        return len(self.sections)

    def __getitem__(self, row: int) -> str:
        offset, size = self.sections[row]
        data = self.read(offset, size)
        if offset == 0:
            data = data.removeprefix(BYTE_ORDER_MARK)
        return _decode(data, self.name)


@dataclass
class JsonLines(DocumentFile):
    """A file with one JSON object per line. A line is found by its byte offset."""

    # int64 [documents, 3]: line number from 1, byte offset, bytes
    lines: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        super().__post_init__()
        lines = []
        offset = 0

        with self.stream() as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    lines.append((number, offset, len(line)))
                offset += len(line)

        self.lines = np.array(lines, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, row: int) -> Any:
        number, offset, size = map(int, self.lines[row])
        return self._parse(self.read(offset, size), number)

    def __iter__(self) -> Iterator[Any]:
        """Yield the same documents in one pass, without opening the file for each."""
        with self.stream() as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield self._parse(line, number)

    def _parse(self, line: bytes, number: int) -> Any:
        """Return the document on a line; a subclass may return another type."""
        return _text_of(self.record(line, number), self.text_field, self._where(number))

    def record(self, line: bytes, number: int) -> Any:
        """Return the JSON value on a line. Raises DataError if the line is not valid JSON."""
        where = self._where(number)
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        text = _decode(line, where)
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where} is not valid JSON ({error.msg} at column {error.colno}); the file may be "
                "truncated: repair or delete that line."
            ) from error
        # A number of thousands of digits, or a thousand nested brackets
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where} is JSON that cannot be read ({type(error).__name__}): shorten its "
                "numbers, or delete that line."
            ) from error

    def _where(self, number: int) -> str:
        return f"{self.name} line {number}"


class Parquet(DocumentFile):
    """The rows of one text column, held in memory.

    For a corpus larger than memory use ArrayRecord, which is read in place.
    """

    @cached_property
    def column(self) -> Any:
        """The pyarrow column of texts. Raises DataError if the file or the column is unusable."""
        parquet = import_extra("pyarrow.parquet", "parquet", self.name, DataError)
        pyarrow = import_extra("pyarrow", "parquet", self.name, DataError)

        self.need_unchanged()
        try:
            with parquet.ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                need(
                    self.text_field in names,
                    f"{self.name} has no column {self.text_field!r}; set data.text_field to one "
                    f"of: {', '.join(names)}.",
                    DataError,
                )
                column = file.read(columns=[self.text_field]).column(0)
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise DataError(
                f"{self.name} is not a readable Parquet file ({reason}); it may be truncated: "
                "write or copy it again."
            ) from error

        # A categorical column is one of numbers, with a table of the texts that they stand for.
        if pyarrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)

        kinds = pyarrow.types
        of_text = kinds.is_string(column.type) or kinds.is_string_view(column.type)
        need(
            of_text or kinds.is_large_string(column.type),
            f"{self.name} column {self.text_field!r} holds {column.type}, not text; set "
            "data.text_field to a string column.",
            DataError,
        )
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
    def reader(self) -> Any:
        """The open reader. Raises DataError if the file is damaged."""
        module = import_extra(
            "array_record.python.array_record_module", "arrayrecord", self.name, DataError
        )

        self.need_unchanged()
        with self._readable():
            reader = module.ArrayRecordReader(str(self.path))
            if reader.num_records() == 0:
                # A damaged file also reports that it has no records; only reading says why.
                reader.read_all()
        return reader

    def __len__(self) -> int:
        return self.reader.num_records()

    def __getitem__(self, row: int) -> str:
        where = f"{self.name} record {row}"
        with self._readable():
            [record] = self.reader.read([row])

        text = _decode(record, where)
        if not text.startswith("{"):
            return text

        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):  # plain text that happens to begin with a brace
            return text
        return _text_of(parsed, self.text_field, where)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn the reader's errors into a DataError."""
        try:
            yield
        except (RuntimeError, OSError, IndexError) as error:
            reason = str(error).split(";")[0].rstrip(".")
            raise DataError(
                f"{self.name} is not a readable ArrayRecord file ({reason}); it may be truncated: "
                "write or copy it again."
            ) from error


def _text_of(record: Any, text_field: str, where: str) -> str:
    """Return the text of a JSON object. Raises DataError if there is none."""
    if not isinstance(record, dict):
        raise DataError(
            f"{where} is a JSON {type(record).__name__}, not an object; write "
            f"{{{json.dumps(text_field)}: ...}}."
        )

    if text_field not in record:
        keys = ", ".join(record) or "none, the object is empty"
        raise DataError(
            f"{where} has no key {text_field!r}; set data.text_field to one of: {keys}."
        )

    text = record[text_field]
    if not isinstance(text, str):
        raise DataError(
            f"{where} has a {type(text).__name__} under {text_field!r}, not a string; set "
            "data.text_field to a text key."
        )

    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a character (\\u{ord(text[error.start]):04x}); repair it, or "
            "delete that row."
        ) from error
    return text


def _decode(data: bytes, where: str) -> str:
    """Return UTF-8 bytes as text. Raises DataError if they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8 text (byte {error.start}); convert it to UTF-8."
        ) from error


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn an OSError while a file is read into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{name} cannot be read ({error.strerror}); check the path and its permissions."
        ) from error
