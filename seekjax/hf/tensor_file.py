"""One safetensors file: eight bytes of length, a JSON header, then the tensors one after another.

Nothing in the file is executed, and each number of the header is checked against the file's size
before it is used. Tensors are read and written one at a time, so that no file is ever in memory as
a whole; the safetensors package would map or hold all of it.
"""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from seekjax.errors import WeightsError, need
from seekjax.hf.quote import quoted
from seekjax.hf.untrusted import file_size, parse_json

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E8M0": np.dtype(jnp.float8_e8m0fnu),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

LENGTH_BYTES = 8  # the header's length, before the header
HEADER_BYTES = 2**24  # at most: V3 as one file would need 10 MB
MOST_AXES = 4
COMPARED_BYTES = 2**26  # at a time

Stored = tuple[str, np.dtype, tuple[int, ...]]  # name, dtype, shape of a tensor to write


class Entry(NamedTuple):
    """Where the bytes of a tensor are, and what they mean."""

    file: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Return the tensor, in the dtype of the file."""
        return self.read_flat(0, math.prod(self.shape)).reshape(self.shape)

    def read_flat(self, start: int, count: int) -> np.ndarray:
        """Return `count` elements from number `start` on. Raises WeightsError if some are gone."""
        offset = self.offset + start * self.dtype.itemsize
        values = np.fromfile(self.file, self.dtype, count, offset=offset)
        need(
            len(values) == count,
            f"{self.file} became shorter while it was read.",
            WeightsError,
        )
        return values

    def equals(self, other: "Entry") -> bool:
        """Return whether another tensor has the same shape and values.

        Of two dtypes the values are compared as the narrower one holds them.
        """
        if self.shape != other.shape:
            return False
        narrow = min(self.dtype, other.dtype, key=lambda dtype: dtype.itemsize)

        # Piece by piece: an embedding can be larger than all else that loading holds.
        size = math.prod(self.shape)
        step = COMPARED_BYTES // np.dtype(np.float32).itemsize
        for start in range(0, size, step):
            count = min(step, size - start)
            with np.errstate(over="ignore"):
                mine = self.read_flat(start, count).astype(narrow)
                theirs = other.read_flat(start, count).astype(narrow)
            if mine.tobytes() != theirs.tobytes():
                return False
        return True


def read_header(path: Path) -> dict[str, Entry]:
    """Return every tensor that a file declares, by name.

    Raises WeightsError unless the tensors fill the file exactly, without gap or overlap.
    """
    header, data_offset, size = _read_header_json(path)
    metadata = header.pop("__metadata__", {})
    texts = isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
    need(texts, f"{path} has metadata that is not a table of texts.", WeightsError)

    entries: dict[str, Entry] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, described in header.items():
        start, end, dtype, shape = _parse_entry(name, described, path)
        need(
            data_offset + end <= size,
            f"{path} is cut short or its header is false: {quoted(name)} would end at byte "
            f"{data_offset + end} of {size}.",
            WeightsError,
        )
        ranges.append((start, end, name))
        entries[name] = Entry(path, data_offset + start, dtype, shape)

    _check_filled(ranges, size - data_offset, path)
    return entries


def _read_header_json(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, the byte at which the tensors begin, and the size of the file."""
    size = file_size(path)
    need(size >= LENGTH_BYTES, f"{path} is cut short: it has {size} bytes.", WeightsError)

    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        need(
            length <= HEADER_BYTES,
            f"{path} claims a header of {length} bytes: at most {HEADER_BYTES} are read.",
            WeightsError,
        )
        need(
            length <= size - LENGTH_BYTES,
            f"{path} is cut short within its header, or is not a safetensors file.",
            WeightsError,
        )
        header = parse_json(file.read(length), path)
    return header, LENGTH_BYTES + length, size


def _parse_entry(
    name: str,
    described: Any,
    path: Path,
) -> tuple[int, int, np.dtype, tuple[int, ...]]:
    """Start, end, dtype and shape of one tensor. Raises WeightsError unless they fit each other."""
    need(
        isinstance(described, dict) and set(described) == {"dtype", "shape", "data_offsets"},
        f"{path}: {quoted(name)} is not described by dtype, shape and data_offsets.",
        WeightsError,
    )
    dtype_name, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]

    need(
        isinstance(dtype_name, str) and dtype_name in DTYPES,
        f"{path}: {quoted(name)} has type {quoted(dtype_name)}; seekjax reads {', '.join(DTYPES)}.",
        WeightsError,
    )
    need(
        _is_sizes(shape, below=2**40) and len(shape) <= MOST_AXES,
        f"{path}: {quoted(name)} does not have a valid shape.",
        WeightsError,
    )
    need(
        _is_sizes(offsets) and len(offsets) == 2,
        f"{path}: {quoted(name)} does not have valid data_offsets.",
        WeightsError,
    )

    dtype = DTYPES[dtype_name]
    start, end = offsets
    expected = math.prod(shape) * dtype.itemsize
    need(
        end - start == expected,
        f"{path}: {quoted(name)} takes {end - start} bytes, its shape and type {expected}.",
        WeightsError,
    )
    return start, end, dtype, tuple(shape)


def _is_sizes(value: Any, below: float = math.inf) -> bool:
    """Return whether a value is a list of non-negative integers, all less than `below`."""
    if not isinstance(value, list):
        return False
    return all(type(size) is int and 0 <= size < below for size in value)


def _check_filled(
    ranges: list[tuple[int, int, str]],
    size: int,
    path: Path,
) -> None:
    """Raise WeightsError unless the tensors' ranges fill `size` bytes exactly."""
    filled = 0
    for start, end, name in sorted(ranges):
        fault = "overlaps the tensor" if start < filled else "leaves a gap"
        need(start == filled, f"{path}: {quoted(name)} {fault} before it.", WeightsError)
        filled = end
    need(
        filled == size,
        f"{path} has {size - filled} bytes that belong to no tensor.",
        WeightsError,
    )


def write_file(
    path: Path,
    stored: list[Stored],
    values: Iterable[np.ndarray],
) -> None:
    """Write one file. The header needs no values, so they can be made and written one by one."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in stored:
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end

    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # align the values for every dtype
    with path.open("wb") as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for (_, dtype, shape), x in zip(stored, values, strict=True):
            assert x.shape == shape
            raw = np.ascontiguousarray(x.astype(dtype, copy=False)).view(np.uint8)
            file.write(raw.data)
        file.flush()
        os.fsync(file.fileno())
