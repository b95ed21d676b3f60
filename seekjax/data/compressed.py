"""Compressed files of documents, unpacked whole into memory: gzip, xz, bzip2 and Zstandard."""

import bz2
import gzip
import importlib
import lzma
from collections.abc import Callable
from pathlib import Path

from seekjax.errors import DataError, need
from seekjax.extras import import_extra

# Packed forms that are not read.
OTHER_PACKED = {".7z", ".br", ".lz4", ".rar", ".tar", ".tbz2", ".tgz", ".txz", ".z", ".zip"}


def unpack(path: Path, name: str) -> bytes:
    """Return the unpacked contents of a file with a suffix of UNPACKERS.

    Raises DataError if the file is damaged, or if a package that unpacks it is not installed.
    """
    try:
        return UNPACKERS[path.suffix.lower()](path.read_bytes(), name)
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(
            f"{name} does not fit in memory when it is unpacked; split it, or unpack it on disk."
        ) from error
    except Exception as error:  # each of the libraries has errors of its own
        raise DataError(
            f"{name} cannot be unpacked ({str(error).rstrip('.')}); it may be truncated: copy it "
            "again."
        ) from error


def is_packed(path: Path) -> bool:
    """Return whether a file's name says that it is compressed, or an archive."""
    suffix = path.suffix.lower()
    return suffix in UNPACKERS or suffix in OTHER_PACKED


def _unpack_zstandard(data: bytes, name: str) -> bytes:
    """Return the contents of all frames of Zstandard."""
    try:
        return importlib.import_module("compression.zstd").decompress(data)
    except ImportError:  # Python before 3.14
        module = import_extra("zstandard", "zstd", name, DataError)

    frames = []
    while data:
        frame = module.ZstdDecompressor().decompressobj()
        frames.append(frame.decompress(data))
        need(frame.eof, f"{name} is truncated: copy it again.", DataError)
        data = frame.unused_data
    return b"".join(frames)


UNPACKERS: dict[str, Callable[[bytes, str], bytes]] = {
    ".gz": lambda data, name: gzip.decompress(data),
    ".xz": lambda data, name: lzma.decompress(data),
    ".bz2": lambda data, name: bz2.decompress(data),
    ".zst": _unpack_zstandard,
}
