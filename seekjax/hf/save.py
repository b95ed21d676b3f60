"""Weights into a checkpoint of the published layout, one tensor at a time: config.json, safetensors files, and an index where they are several."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import ModelConfig

from . import fp8
from .config import write_config
from .errors import WeightsError, need
from .files import INDEX, NAMES
from .load import SCALE
from .names import Part, Tensor, join, tensors

Dtype = Literal["bf16", "f32", "fp8", "fp8-ue8m0"]
FILE_BYTES = 5 * 10**9  # of tensors in one file, as published
Stored = tuple[str, np.dtype, tuple[int, ...]]  # name, type, shape


def save(directory: Path, model: ModelConfig, variables: dict, dtype: Dtype = "bf16", file_bytes: int = FILE_BYTES) -> None:
    """Write a folder that `load`, transformers and others read; it appears whole, or not at all.

    `dtype` is that of the matrices: fp8 has blocks of 128 x 128 with float32 scales, fp8-ue8m0 has powers of two as scales. Embedding, head, norms
    and router are in bf16 beside FP8, the balance bias in float32 always. Raises WeightsError.
    """
    directory = Path(directory).expanduser()
    need(jax.process_count() == 1, "a checkpoint is written by one process: restore the run in one and convert there.")
    config = write_config(model, "float32" if dtype == "f32" else "bfloat16", dtype.startswith("fp8"), dtype == "fp8-ue8m0")
    _check_bias(model, variables)
    with appearing(directory) as folder:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        files = _files(model, dtype, file_bytes)
        names = ["model.safetensors"] if len(files) == 1 else [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
        for name, content in zip(names, files):
            _write(folder / name, content, variables, dtype)
        if len(files) > 1:
            placed = {stored[0]: name for name, content in zip(names, files) for tensor in content for stored in stored_as(tensor, dtype)}
            size = sum(map(_bytes, (stored for content in files for tensor in content for stored in stored_as(tensor, dtype))))
            (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": placed}, indent=2) + "\n")


@contextmanager
def appearing(directory: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when the block ends and is removed when it fails. Raises WeightsError when the name is taken."""
    need(not directory.exists() or directory.is_dir() and not any(directory.iterdir()), f"{directory} is already there: name a new folder.")
    temporary = directory.absolute().with_name(f".{directory.absolute().name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if directory.exists():
            directory.rmdir()
        temporary.rename(directory)
    except OSError as error:
        raise WeightsError(f"{directory} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def stored_as(tensor: Tensor, dtype: Dtype) -> list[Stored]:
    """What a tensor becomes in a file: itself, or its blocks and their scales."""
    float32, bfloat16 = np.dtype(np.float32), np.dtype(jnp.bfloat16)
    if tensor.row.kind == "matrix" and dtype.startswith("fp8"):
        return [(tensor.name, fp8.E4M3, tensor.shape), (tensor.name + SCALE, float32, fp8.blocks(tensor.shape))]
    return [(tensor.name, float32 if tensor.row.kind == "bias" or dtype == "f32" else bfloat16, tensor.shape)]


def _bytes(stored: Stored) -> int:
    return math.prod(stored[2]) * stored[1].itemsize


def _files(model: ModelConfig, dtype: Dtype, most: int) -> list[list[Tensor]]:
    """The tensors of each file: in order, as many as fit, at least one."""
    files: list[list[Tensor]] = [[]]
    room = most
    for tensor in tensors(model):
        size = sum(map(_bytes, stored_as(tensor, dtype)))
        if size > room and files[-1]:
            files.append([])
            room = most
        files[-1].append(tensor)
        room -= size
    return files


def _write(path: Path, content: list[Tensor], variables: dict, dtype: Dtype) -> None:
    """One safetensors file: the header follows from the shapes, so that the values can follow one by one."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for stored in (stored for tensor in content for stored in stored_as(tensor, dtype)):
        header[stored[0]] = {"dtype": NAMES[stored[1]], "shape": list(stored[2]), "data_offsets": [at, at + _bytes(stored)]}
        at += _bytes(stored)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the values begin where their types may lie
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in content:
            x = join([fetch(variables, part) for part in tensor.parts], tensor)
            kept = stored_as(tensor, dtype)
            for values, (_, kind, _) in zip(fp8.quantise(x, dtype == "fp8-ue8m0") if len(kept) == 2 else (x,), kept, strict=True):
                file.write(np.ascontiguousarray(values.astype(kind, copy=False)).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def fetch(variables: dict, part: Part) -> np.ndarray:
    """One of our arrays, or its slice at a layer and an expert, put together on the host from the devices that have it."""
    x = variables
    for name in part.path:
        x = x[name]
    if not isinstance(x, jax.Array):
        return np.asarray(x)[part.at]
    rest = x.shape[len(part.at):]
    found = np.empty(rest, x.dtype)
    for shard in x.addressable_shards:
        cuts = [cut.indices(size)[:2] for cut, size in zip(shard.index, x.shape)]
        if shard.replica_id == 0 and all(low <= i < high for i, (low, high) in zip(part.at, cuts)):
            start = [i - low for i, (low, _) in zip(part.at, cuts)] + [0] * len(rest)
            size = (1,) * len(part.at) + shard.data.shape[len(part.at):]
            found[tuple(slice(*cut) for cut in cuts[len(part.at):])] = np.asarray(_cut(shard.data, start, size)).reshape(size[len(part.at):])
    return found


@partial(jax.jit, static_argnums=2)
def _cut(x: jax.Array, start: list[int], size: tuple[int, ...]) -> jax.Array:
    return jax.lax.dynamic_slice(x, start, size)


def _check_bias(model: ModelConfig, variables: dict) -> None:
    """Only the layout of sigmoid routing has a place for the balance bias."""
    if model.scoring == "softmax":
        moved = any(bool(jnp.any(bias != 0)) for bias in jax.tree.leaves(variables.get("balance", {})))
        need(not moved, "this model routes by softmax with a balance bias that has moved: the published layout has no place for it.")
