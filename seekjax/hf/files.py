"""safetensors files from strangers. Eight bytes of length, a JSON header, then the tensors one
after another: nothing is executed, and no number of the header is believed before it fits the file.
Tensors are read one at a time; no file is ever held whole.
"""

import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from seekjax.errors import WeightsError, need
from seekjax.hf.quote import listed, quoted

INDEX = "model.safetensors.index.json"
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E8M0": np.dtype(jnp.float8_e8m0fnu),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEADER = 2**24  # bytes: V3 whole in one file would need 10 MB
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle")
Stored = tuple[str, np.dtype, tuple[int, ...]]  # name, type, shape of what is written
COMPARED = 2**26  # bytes at a time


class Entry(NamedTuple):
    """Where a tensor lies."""

    file: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]


class Files:
    """The tensors of a folder, or of one file: `entries` by name, `read` for the values of one."""

    def __init__(self, folder: Path):
        """Reads every header and no tensor. Raises WeightsError."""
        if folder.is_file():
            self.entries = dict(read_header(folder))
            return
        index = folder / INDEX
        weights = sorted(path.name for path in folder.glob("*.safetensors"))
        need(
            bool(weights)
            or index.exists()
            or not any(path.suffix in PICKLES for path in folder.iterdir()),
            f"{folder} holds pickled weights only, which can run any program: convert "
            "them to safetensors where they come from.",
            WeightsError,
        )
        need(bool(weights), f"{folder} holds no .safetensors file.", WeightsError)
        placed = read_index(index) if index.exists() else None
        self.entries: dict[str, Entry] = {}
        for name in sorted(set(placed.values())) if placed is not None else weights:
            for tensor, entry in read_header(folder / name):
                need(
                    tensor not in self.entries,
                    f"{quoted(tensor)} is in {name} and in another file.",
                    WeightsError,
                )
                self.entries[tensor] = entry
        if placed is not None:
            wrong = {
                "tensors are not in the file that the index names": [
                    name
                    for name, file in placed.items()
                    if name not in self.entries or self.entries[name].file.name != file
                ],
                "tensors of the files are not in the index": [
                    name for name in self.entries if name not in placed
                ],
            }
            need(
                not any(wrong.values()),
                f"{index} does not fit its files: {listed(wrong)}.",
                WeightsError,
            )

    def read(self, name: str) -> np.ndarray:
        """The values of one tensor, in the type of the file."""
        entry = self.entries[name]
        return _read(entry, 0, math.prod(entry.shape)).reshape(entry.shape)

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors agree byte for byte."""
        a, b = self.entries[one], self.entries[other]
        if a[2:] != b[2:]:
            return False
        size, step = math.prod(a.shape), COMPARED // a.dtype.itemsize
        return all(
            _read(a, at, min(step, size - at)).tobytes()
            == _read(b, at, min(step, size - at)).tobytes()
            for at in range(0, size, step)
        )


def _read(entry: Entry, start: int, count: int) -> np.ndarray:
    x = np.fromfile(
        entry.file, entry.dtype, count, offset=entry.offset + start * entry.dtype.itemsize
    )
    need(len(x) == count, f"{entry.file} became shorter while it was read.", WeightsError)
    return x


def read_header(path: Path) -> Iterator[tuple[str, Entry]]:
    """Every tensor that a file declares. Raises WeightsError unless they fill the file exactly,
    without gap or overlap."""
    size = file_size(path)
    need(size >= 8, f"{path} is cut short: it has {size} bytes.", WeightsError)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        need(
            length <= HEADER,
            f"{path} claims a header of {length} bytes: at most {HEADER} are read.",
            WeightsError,
        )
        need(
            length <= size - 8,
            f"{path} is cut short within its header, or is no safetensors file.",
            WeightsError,
        )
        header = _json(file.read(length), path)
    metadata = header.pop("__metadata__", {})
    need(
        isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values()),
        f"{path} has metadata that is no table of texts.",
        WeightsError,
    )
    ranges = []
    for name, entry in header.items():
        start, end, dtype, shape = _entry(name, entry, path)
        ranges.append((start, end, name))
        need(
            8 + length + end <= size,
            f"{path} is cut short or lies: {quoted(name)} would end at byte "
            f"{8 + length + end} of {size}.",
            WeightsError,
        )
        yield name, Entry(path, 8 + length + start, dtype, shape)
    at = 0
    for start, end, name in sorted(ranges):
        need(
            start == at,
            f"{path}: {quoted(name)} "
            f"{'overlaps the tensor before it' if start < at else 'leaves a gap before it'}.",
            WeightsError,
        )
        at = end
    need(
        8 + length + at == size,
        f"{path} has {size - 8 - length - at} bytes that belong to no tensor.",
        WeightsError,
    )


def _entry(name: str, entry: Any, path: Path) -> tuple[int, int, np.dtype, tuple[int, ...]]:
    """Begin, end, type and shape of one tensor, each of which fits the others."""
    need(
        isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"},
        f"{path}: {quoted(name)} is not described by dtype, shape and data_offsets.",
        WeightsError,
    )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    need(
        isinstance(dtype, str) and dtype in DTYPES,
        f"{path}: {quoted(name)} has type {quoted(dtype)}; seekjax reads {', '.join(DTYPES)}.",
        WeightsError,
    )
    need(
        isinstance(shape, list)
        and len(shape) <= 4
        and all(type(n) is int and 0 <= n < 2**40 for n in shape),
        f"{path}: {quoted(name)} has no shape.",
        WeightsError,
    )
    need(
        isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(n) is int and n >= 0 for n in offsets),
        f"{path}: {quoted(name)} has no place.",
        WeightsError,
    )
    bytes_ = math.prod(shape) * DTYPES[dtype].itemsize
    need(
        offsets[1] - offsets[0] == bytes_,
        f"{path}: {quoted(name)} takes {offsets[1] - offsets[0]} bytes, its shape and "
        f"type {bytes_}.",
        WeightsError,
    )
    return offsets[0], offsets[1], DTYPES[dtype], tuple(shape)


def write_file(path: Path, stored: list[Stored], values: Iterable[np.ndarray]) -> None:
    """One file: the header follows from names, types and shapes, so that the values can follow one
    by one."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape in stored:
        size = math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the values begin where their types may lie
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (_, dtype, shape), x in zip(stored, values, strict=True):
            assert x.shape == shape
            file.write(np.ascontiguousarray(x.astype(dtype, copy=False)).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def read_index(path: Path) -> dict[str, str]:
    """In which file each tensor is. Raises WeightsError for names that lead out of the folder."""
    index = read_json(path, HEADER)
    placed = index.get("weight_map")
    need(
        isinstance(placed, dict)
        and placed
        and all(isinstance(file, str) for file in placed.values()),
        f"{path} has no weight_map.",
        WeightsError,
    )
    for file in set(placed.values()):
        need(
            file.endswith(".safetensors") and not set(file) & set("/\\:\0") and file[0] != ".",
            f"{path} names {quoted(file)}: only .safetensors files of its own folder are opened.",
            WeightsError,
        )
        need(
            (path.parent / file).exists(),
            f"{path} names {quoted(file)}, which is not there.",
            WeightsError,
        )
    return placed


def read_json(path: Path, most: int = 2**20) -> dict[str, Any]:
    """A JSON object of at most so many bytes."""
    file_size(path, most)
    return _json(path.read_bytes(), path)


def _json(text: bytes, path: Path) -> dict[str, Any]:
    """A JSON object without repeated keys. Brackets are counted first: empty ones would take twenty
    times their size in memory."""
    need(
        text.count(b"[") + text.count(b"{") <= len(text) // 12 + 8,
        f"{path} is not what it should be: its JSON is brackets for the most part.",
        WeightsError,
    )
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except WeightsError as error:
        raise WeightsError(f"{path} {error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged: its JSON cannot be read.") from error
    need(isinstance(found, dict), f"{path} holds no JSON object.", WeightsError)
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    need(len(found) == len(pairs), "names one thing twice.", WeightsError)
    return found


def file_size(path: Path, most: int = 2**62) -> int:
    """Bytes of an ordinary file of at most so many."""
    try:
        status = path.stat()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error
    need(stat.S_ISREG(status.st_mode), f"{path} is no ordinary file.", WeightsError)
    need(
        status.st_size <= most,
        f"{path} has {status.st_size} bytes: at most {most} are read.",
        WeightsError,
    )
    return status.st_size
