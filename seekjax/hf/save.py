"""Weights into a checkpoint of the published layout, one tensor at a time: config.json, safetensors
files, and an index where they are several."""

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from seekjax.config import ModelConfig
from seekjax.errors import WeightsError, need
from seekjax.hf import fp8
from seekjax.hf.config_writer import write_config
from seekjax.hf.files import INDEX, Files, Stored, write_file
from seekjax.hf.load import SCALE
from seekjax.hf.names import Part, Tensor, join, tensors
from seekjax.storage import new_folder

Dtype = Literal["bf16", "f32", "fp8", "fp8-ue8m0"]
FILE_BYTES = 5 * 10**9  # of tensors in one file, as published


def save(
    directory: Path,
    model: ModelConfig,
    variables: dict,
    dtype: Dtype = "bf16",
    file_bytes: int = FILE_BYTES,
    scales: Path | None = None,
) -> None:
    """Write a folder that `load`, transformers and others read; it appears whole, or not at all.

    `dtype` is that of the matrices: fp8 has blocks of 128 x 128 with float32 scales, fp8-ue8m0 has
    powers of two as scales. Embedding, head, norms and router are in bf16 beside FP8, the balance
    bias in float32 always. `scales` is a file or checkpoint with the scales that the matrices once
    had: blocks that did not change keep theirs. Raises WeightsError.
    """
    directory = Path(directory).expanduser()
    need(
        jax.process_count() == 1,
        "a checkpoint is written by one process: restore the run in one and convert there.",
        WeightsError,
    )
    config = write_config(
        model,
        "float32" if dtype == "f32" else "bfloat16",
        dtype.startswith("fp8"),
        dtype == "fp8-ue8m0",
    )
    check_bias(model, variables)
    with new_folder(directory, WeightsError) as folder:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        files = _files(model, dtype, file_bytes)
        names = (
            ["model.safetensors"]
            if len(files) == 1
            else [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
        )
        for name, content in zip(names, files):
            write_file(
                folder / name,
                [stored for tensor in content for stored in stored_as(tensor, dtype)],
                _values(content, variables, dtype, Files(scales) if scales else None),
            )
        if len(files) > 1:
            placed = {
                stored[0]: name
                for name, content in zip(names, files)
                for tensor in content
                for stored in stored_as(tensor, dtype)
            }
            size = sum(
                map(
                    _bytes,
                    (
                        stored
                        for content in files
                        for tensor in content
                        for stored in stored_as(tensor, dtype)
                    ),
                )
            )
            (folder / INDEX).write_text(
                json.dumps({"metadata": {"total_size": size}, "weight_map": placed}, indent=2)
                + "\n"
            )


def stored_as(tensor: Tensor, dtype: Dtype) -> list[Stored]:
    """What a tensor becomes in a file: itself, or its blocks and their scales."""
    float32, bfloat16 = np.dtype(np.float32), np.dtype(jnp.bfloat16)
    if tensor.row.kind == "matrix" and dtype.startswith("fp8"):
        return [
            (tensor.name, fp8.E4M3, tensor.shape),
            (tensor.name + SCALE, float32, fp8.blocks(tensor.shape)),
        ]
    return [
        (
            tensor.name,
            float32 if tensor.row.kind == "bias" or dtype == "f32" else bfloat16,
            tensor.shape,
        )
    ]


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


def _values(
    content: list[Tensor], variables: dict, dtype: Dtype, scales: Files | None
) -> Iterator[np.ndarray]:
    """What `stored_as` announces, tensor by tensor."""
    for tensor in content:
        x, scale = (
            join([fetch(variables, part) for part in tensor.parts], tensor),
            tensor.name + SCALE,
        )
        if len(stored_as(tensor, dtype)) == 1:
            yield x
        else:
            there = (
                scales
                and scale in scales.entries
                and scales.entries[scale].shape == fp8.blocks(tensor.shape)
            )
            known = scales.read(scale).astype(np.float32) if there else None
            yield from fp8.quantise(x, dtype == "fp8-ue8m0", known)


def fetch(variables: dict, part: Part) -> np.ndarray:
    """One of our arrays, or its slice at a layer and an expert, put together on the host from the
    devices that have it."""
    x = variables
    for name in part.path:
        x = x[name]
    if not isinstance(x, jax.Array):
        return np.asarray(x)[part.at]
    rest = x.shape[len(part.at) :]
    found = np.empty(rest, x.dtype)
    for shard in x.addressable_shards:
        cuts = [cut.indices(size)[:2] for cut, size in zip(shard.index, x.shape)]
        if shard.replica_id == 0 and all(low <= i < high for i, (low, high) in zip(part.at, cuts)):
            start = [i - low for i, (low, _) in zip(part.at, cuts)] + [0] * len(rest)
            size = (1,) * len(part.at) + shard.data.shape[len(part.at) :]
            with jax.set_mesh(
                Mesh(np.array([shard.device]), "d", axis_types=(AxisType.Auto,))
            ):  # the array of one device is no business of the mesh in use
                piece = np.asarray(_cut(shard.data, start, size))
            found[tuple(slice(*cut) for cut in cuts[len(part.at) :])] = piece.reshape(
                size[len(part.at) :]
            )
    return found


@partial(jax.jit, static_argnums=2)
def _cut(x: jax.Array, start: list[int], size: tuple[int, ...]) -> jax.Array:
    return jax.lax.dynamic_slice(x, start, size)


def check_bias(model: ModelConfig, variables: dict) -> None:
    """Only the layout of sigmoid routing has a place for the balance bias. Raises WeightsError
    where another has one."""
    if model.scoring == "softmax":
        moved = any(
            bool(jnp.any(bias != 0)) for bias in jax.tree.leaves(variables.get("balance", {}))
        )
        need(
            not moved,
            "this model routes by softmax with a balance bias that has moved: the "
            "published layout has no place for it.",
            WeightsError,
        )
