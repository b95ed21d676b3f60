"""The files of documents at a path of data.sources, and what else lies there."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seekjax.data.compressed import UNPACKERS, is_packed
from seekjax.data.files import ArrayRecord, DocumentFile, JsonLines, Parquet, TextFile
from seekjax.errors import DataError, need

FORMATS: dict[str, type[DocumentFile]] = {
    ".txt": TextFile,
    ".jsonl": JsonLines,
    ".parquet": Parquet,
    ".arrayrecord": ArrayRecord,
    ".array_record": ArrayRecord,
}
# Formats that are read as a stream of bytes, and so from compressed files too.
STREAMED = (TextFile, JsonLines)
NAMED = 3  # files that a note names


@dataclass(frozen=True)
class Listing:
    """The document files at a path, sorted, each once; and sentences on what is left out."""

    files: list[DocumentFile]
    notes: list[str]


def open_path(path: Path, text_field: str) -> Listing:
    """Return the document files at an existing path.

    They are the file itself, or every file of a known format below a folder, without hidden ones.
    Links are followed, and a file that has several names is read once.

    Raises:
        DataError: none of the files has a known format; one is compressed or packed in a way that
            is not read, or a link to nothing; or a folder cannot be read.
    """
    known = ", ".join(FORMATS)
    if not path.is_dir():
        need(
            stat.S_ISREG(path.stat().st_mode),
            f"{path} is not a regular file; write the text into one.",
            DataError,
        )
        need(
            _format_of(path),
            f"{path} has an unknown format; convert it to one of {known}.",
            DataError,
        )
        return Listing([_open_file(path, text_field)], [])

    files: list[DocumentFile] = []
    unknown: list[Path] = []
    repeated: list[Path] = []
    read: set[tuple[int, int]] = set()
    for file in sorted(_walk(path)):
        status = _status(file)
        identity = status.st_dev, status.st_ino
        if not _format_of(file) or not stat.S_ISREG(status.st_mode):
            unknown.append(file)
        elif identity in read:
            repeated.append(file)
        else:
            read.add(identity)
            files.append(_open_file(file, text_field))

    need(
        files,
        f"the folder {path} holds no file of a known format; it needs at least one of {known}.",
        DataError,
    )
    notes = [
        *_note(path, unknown, "of unknown format"),
        *_note(path, repeated, "under another name of one that is read"),
    ]
    return Listing(files, notes)


def count_files(files: Sequence[Path | str]) -> str:
    """Return the number of some files as words."""
    return "1 file" if len(files) == 1 else f"{len(files):,} files"


def name_files(paths: Sequence[Path | str]) -> str:
    """Return the first few of some files as words, and the number of the others."""
    names = ", ".join(map(str, paths[:NAMED]))
    return f"{names} and {len(paths) - NAMED:,} more" if len(paths) > NAMED else names


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder that are not hidden, and each folder once.

    Raises DataError if a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise DataError(
            f"the folder {error.filename} cannot be read ({error.strerror}); check its permissions."
        ) from error

    # Folders that are only linked come last, and only if they were not read under their own name.
    entered: set[Path] = set()
    linked = [folder]
    while linked:
        start = linked.pop(0)
        if start.resolve() in entered:
            continue
        for root, folders, files in os.walk(start, onerror=fail):
            entered.add(Path(root).resolve())
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = [Path(root) / name for name in sorted(folders)]
            linked += [path for path in below if path.is_symlink()]

            for name in files:
                if not name.startswith("."):
                    yield Path(root) / name


def _status(file: Path) -> os.stat_result:
    """Return the status of a file, that of the target for a link. Raises DataError."""
    try:
        return file.stat()
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}); repair that link, or remove it."
        ) from error


def _format_of(path: Path) -> type[DocumentFile] | None:
    """Return the format that a file's suffixes name, or None.

    Raises DataError for packed files that are not read: the documents in them would be missing.
    """
    if not is_packed(path):
        return FORMATS.get(path.suffix.lower())

    inner = FORMATS.get(Path(path.stem).suffix.lower())
    readable = path.suffix.lower() in UNPACKERS and inner in STREAMED
    need(
        readable,
        f"{path} is compressed in a way that is not read; unpack it, or move it away. Only .txt "
        f"and .jsonl are read compressed, with {', '.join(UNPACKERS)}.",
        DataError,
    )
    return inner


def _open_file(path: Path, text_field: str) -> DocumentFile:
    """Return a file of a known format, named by its path."""
    file_type = _format_of(path)
    assert file_type is not None, f"{path} was listed"
    return file_type(path, str(path), text_field)


def _note(folder: Path, files: list[Path], kind: str) -> list[str]:
    """Return the sentence that some files are left out, if there are any."""
    if not files:
        return []
    names = [str(file.relative_to(folder)) for file in files]
    return [f"{folder}: left out {count_files(files)} {kind} ({name_files(names)})"]
