"""Weights into a published checkpoint, one tensor at a time.

The folder gets config.json, one or several safetensors files, and an index if they are several.
"""

import json
import math
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from seekjax.config import ModelConfig
from seekjax.config.formats import Dtype
from seekjax.console import track
from seekjax.errors import WeightsError, need
from seekjax.hf import fp8_blocks
from seekjax.hf.config_writer import write_config
from seekjax.hf.files import INDEX, TensorFiles
from seekjax.hf.names import Part, Tensor, join, tensors
from seekjax.hf.published import SCALE
from seekjax.hf.tensor_file import Stored, write_file
from seekjax.quant.fp8 import E4M3
from seekjax.storage import new_folder

FILE_BYTES = 5 * 10**9  # of tensors in one file, as published


def save(
    directory: Path,
    model: ModelConfig,
    variables: dict,
    dtype: Dtype = "bf16",
    file_bytes: int = FILE_BYTES,
    scales: Path | None = None,
) -> None:
    """Write a folder that `load`, transformers and others read; it appears complete or not at all.

    Args:
        directory: The new folder.
        model: The model's config.
        variables: {"params", "balance"}.
        dtype: Of the matrices. fp8 has blocks of 128 x 128 with float32 scales, fp8-ue8m0 has
            powers of two as scales. Next to FP8, embedding, head, norms and router are in bf16.
            The balance bias is always in float32.
        file_bytes: The most bytes of tensors in one file.
        scales: A file or checkpoint with the scales that the matrices once had: blocks that did
            not change keep theirs.

    Raises:
        WeightsError: the model has no place in the published layout, or the folder exists.
    """
    with new_folder(Path(directory).expanduser(), WeightsError) as folder:
        write_published(folder, model, variables, dtype, file_bytes, scales)


def write_published(
    folder: Path,
    model: ModelConfig,
    variables: dict,
    dtype: Dtype = "bf16",
    file_bytes: int = FILE_BYTES,
    scales: Path | None = None,
) -> None:
    """Write the files of `save` into a folder that exists. Raises WeightsError."""
    need(
        jax.process_count() == 1,
        "a checkpoint is written by one process: restore the run in one and convert there.",
        WeightsError,
    )
    is_fp8 = dtype.startswith("fp8")
    other_dtype = "float32" if dtype == "f32" else "bfloat16"
    config = write_config(model, other_dtype, fp8=is_fp8, ue8m0=dtype == "fp8-ue8m0")
    check_bias(model, variables)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    groups = _group_by_file(model, dtype, file_bytes)
    names = _file_names(len(groups))
    known_scales = TensorFiles(scales) if scales else None
    all_tensors = track(chain.from_iterable(groups), sum(map(len, groups)), "tensors written")
    for name, group in zip(names, groups):
        of_file = islice(all_tensors, len(group))
        values = _values(of_file, variables, dtype, known_scales)
        write_file(folder / name, _all_stored(group, dtype), values)
    next(all_tensors, None)  # none is left: this ends the progress

    if len(groups) > 1:
        index = _index(names, groups, dtype)
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def stored_as(tensor: Tensor, dtype: Dtype) -> list[Stored]:
    """Return what a tensor becomes in a file: itself, or its blocks and their scales."""
    float32, bfloat16 = np.dtype(np.float32), np.dtype(jnp.bfloat16)
    if tensor.row.kind == "matrix" and dtype.startswith("fp8"):
        return [
            (tensor.name, E4M3, tensor.shape),
            (tensor.name + SCALE, float32, _scale_shape(tensor)),
        ]
    wide = tensor.row.kind == "bias" or dtype == "f32"
    return [(tensor.name, float32 if wide else bfloat16, tensor.shape)]


def _scale_shape(tensor: Tensor) -> tuple[int, int]:
    rows, columns = tensor.shape
    return fp8_blocks.blocks((rows, columns))


def _all_stored(group: list[Tensor], dtype: Dtype) -> list[Stored]:
    """Return what the tensors of one file become, in order."""
    stored = []
    for tensor in group:
        stored += stored_as(tensor, dtype)
    return stored


def _bytes(stored: list[Stored]) -> int:
    return sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in stored)


def _group_by_file(
    model: ModelConfig,
    dtype: Dtype,
    most: int,
) -> list[list[Tensor]]:
    """The tensors of each file: in order, as many as fit into `most` bytes, at least one."""
    groups: list[list[Tensor]] = [[]]
    room = most
    for tensor in tensors(model):
        size = _bytes(stored_as(tensor, dtype))
        if size > room and groups[-1]:
            groups.append([])
            room = most
        groups[-1].append(tensor)
        room -= size
    return groups


def _file_names(count: int) -> list[str]:
    """The names of a checkpoint's files, as published."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def _index(
    names: list[str],
    groups: list[list[Tensor]],
    dtype: Dtype,
) -> dict:
    """The index of several files: which one holds which tensor."""
    file_of: dict[str, str] = {}
    total = 0
    for file, group in zip(names, groups):
        stored = _all_stored(group, dtype)
        total += _bytes(stored)
        for tensor_name, _, _ in stored:
            file_of[tensor_name] = file
    return {"metadata": {"total_size": total}, "weight_map": file_of}


def _values(
    group: Iterable[Tensor],
    variables: dict,
    dtype: Dtype,
    scales: TensorFiles | None,
) -> Iterator[np.ndarray]:
    """The arrays that `stored_as` announces, tensor by tensor."""
    for tensor in group:
        x = fetch_tensor(variables, tensor)
        if len(stored_as(tensor, dtype)) == 1:
            yield x
        else:
            yield from fp8_blocks.quantise(x, dtype == "fp8-ue8m0", _known_scale(tensor, scales))


def _known_scale(tensor: Tensor, scales: TensorFiles | None) -> np.ndarray | None:
    """The scales that a matrix once had, if they are known and have the right shape."""
    name = tensor.name + SCALE
    if scales is None or name not in scales.entries:
        return None
    if scales.entries[name].shape != _scale_shape(tensor):
        return None
    return scales.read(name).astype(np.float32)


def fetch_tensor(variables: dict, tensor: Tensor) -> np.ndarray:
    """Return one tensor of the files, on the host, from {"params", "balance"}."""
    parts = [fetch(variables, part) for part in tensor.parts]
    return join(parts, tensor)


def fetch(variables: dict, part: Part) -> np.ndarray:
    """Return one of our arrays, or its slice at a layer and an expert, on the host.

    The slice is put together from the devices that hold its shards.
    """
    x = variables
    for name in part.path:
        x = x[name]
    if not isinstance(x, jax.Array):
        return np.asarray(x)[part.at]

    leading = len(part.at)
    gathered = np.empty(x.shape[leading:], x.dtype)
    for shard in x.addressable_shards:
        if shard.replica_id != 0:
            continue
        ranges = [cut.indices(size)[:2] for cut, size in zip(shard.index, x.shape)]
        inside = [low <= i < high for i, (low, high) in zip(part.at, ranges)]
        if not all(inside):
            continue

        # The layer and expert within the shard, and everything behind them.
        start = [i - low for i, (low, _) in zip(part.at, ranges)] + [0] * gathered.ndim
        rest = shard.data.shape[leading:]
        piece = _slice_on_device(shard.data, start, (1,) * leading + rest)
        target = tuple(slice(low, high) for low, high in ranges[leading:])
        gathered[target] = piece.reshape(rest)
    return gathered


def _slice_on_device(
    x: jax.Array,
    start: list[int],
    size: tuple[int, ...],
) -> np.ndarray:
    """A slice of an array on one device, on the host.

    The memory of a CPU device is the host's: the array is read where it lies. On other devices
    the slice is cut before it is copied; a mesh of that device alone keeps the active mesh from
    resharding the array.
    """
    [device] = x.devices()
    if device.platform == "cpu":
        return np.asarray(x)[tuple([slice(low, low + n) for low, n in zip(start, size)])]

    mesh = Mesh(np.array([device]), "d", axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        return np.asarray(_dynamic_slice(x, start, size))


@partial(jax.jit, static_argnums=2)
def _dynamic_slice(
    x: jax.Array,
    start: list[int],
    size: tuple[int, ...],
) -> jax.Array:
    return jax.lax.dynamic_slice(x, start, size)


def check_bias(model: ModelConfig, variables: dict) -> None:
    """Raise WeightsError for softmax routing with a balance bias that is not zero.

    Only the layout of sigmoid routing has a place for the bias.
    """
    if model.scoring != "softmax":
        return
    biases = jax.tree.leaves(variables.get("balance", {}))
    moved = [np.asarray(bias).any() for bias in biases]
    need(
        not any(moved),
        "this model routes by softmax with a balance bias that has moved: the "
        "published layout has no place for it.",
        WeightsError,
    )
