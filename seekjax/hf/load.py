"""A published checkpoint into sharded arrays, one tensor of the files at a time.

Our layers are stacked, so each large stack is filled layer by layer in device memory. The host
holds one layer of one array, and only the part that its own devices need. A matrix that is to be
quantised is rounded layer by layer as well, so that the float weights are never in memory
together. A small stack is read at once, which compiles no program for its shape.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding

from seekjax.config import KernelConfig, ModelConfig
from seekjax.console import progress
from seekjax.errors import WeightsError
from seekjax.hf.names import Tensor, tensors
from seekjax.hf.published import PublishedCheckpoint, open_published
from seekjax.memory import check_room
from seekjax.model.abstract import abstract_variables, named_variables
from seekjax.quant.formats import Quantised
from seekjax.quant.tree import quantiser, tree_bytes
from sharding.place import axes_of
from sharding.show import human

# Of one of our arrays: index in its leading axes -> (tensor of the files, number of its part).
Sources = dict[tuple[int, ...], tuple[Tensor, int]]
# An array, or the values and scales of a quantised one.
Stored = Any

AT_ONCE = 2**24  # bytes of the largest stack whose layers are read together
COPIES = 5  # of the largest part read at once that reading and rounding it holds, as measured
READERS = 2  # threads: one reads while the other rearranges; each holds a tensor


def load(directory: Path, kernel: KernelConfig | None = None) -> tuple[ModelConfig, dict]:
    """Return the model of a published checkpoint and its {"params", "balance"}.

    The arrays are placed by the rules on the mesh in use, or on the default device. Matrices are in
    the kernel's compute dtype, or in KernelConfig's default; norms, router and bias in float32.
    With a format in kernel.weights, the matrices have that, and embedding and head that of
    kernel.vocabulary. No tensor is read before names, shapes and dtypes of all are known to fit
    config.json. Raises WeightsError, also if the weights do not fit into the memory that is free.
    """
    kernel = kernel or KernelConfig()
    folder = Path(directory).expanduser()
    checkpoint = open_published(folder)
    for note in checkpoint.notes:
        print(f"note: {note}", file=sys.stderr)

    model = checkpoint.config.model
    read_as, stored_as = described(model, kernel)
    read_in = kernel.compute_dtype if kernel.weights == "float32" else kernel.weights
    check_room(
        stored_as,
        _working_bytes(read_as),
        f"reading {folder} as {read_in}",
        "quantise it (seekjax quantize --to int8 or int4), or use a machine or a --mesh with more",
        WeightsError,
    )
    total = tree_bytes(read_as)
    done = 0
    sources_of = _sources(model)
    axes = axes_of(named_variables(model))

    def read(path: tuple[Any, ...], x: jax.ShapeDtypeStruct, stored: Stored, axes: str) -> Stored:
        names = tuple(key.key for key in path)
        if names not in sources_of:  # the balance bias of a model that routes without one
            return jnp.zeros(x.shape, x.dtype, device=x.sharding)
        read_one = _read_stack if _is_filled(path, x) else _read_stored
        array = read_one(path, x, stored, axes, sources_of[names], checkpoint)
        nonlocal done
        done += tree_bytes(x)
        show(done / total, f"{human(done)} of {human(total)}")
        return array

    with progress(f"reading {folder}") as show:
        return model, jax.tree_util.tree_map_with_path(read, read_as, stored_as, axes)


def described(model: ModelConfig, kernel: KernelConfig) -> tuple[dict, dict]:
    """Return the model's arrays as they are read from the files, and as they are stored then."""
    plain = replace(kernel, weights="float32", vocabulary="float32")
    read_as = abstract_variables(model, plain)
    stored_as = abstract_variables(model, kernel)
    exact = {path for path, sources in _sources(model).items() if _is_exact(sources)}

    def in_dtype(path: tuple[Any, ...], x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        names = tuple(key.key for key in path)
        return (
            x if names in exact or names[0] == "balance" else x.update(dtype=kernel.compute_dtype)
        )

    if kernel.weights == "float32" and kernel.vocabulary == "float32":
        read_as = jax.tree_util.tree_map_with_path(in_dtype, read_as)
        return read_as, read_as
    return read_as, stored_as


def _is_filled(path: tuple[Any, ...], x: jax.ShapeDtypeStruct) -> bool:
    """Return whether an array is a stack that is filled layer by layer."""
    return path[1].key.endswith("_layers") and tree_bytes(x) > AT_ONCE


def _working_bytes(read_as: dict) -> int:
    """Return the bytes that reading and rounding the largest array, or layer of one, takes."""
    largest = 0
    for path, x in jax.tree_util.tree_leaves_with_path(read_as):
        part = x.shape[1:] if _is_filled(path, x) else x.shape
        largest = max(largest, math.prod(part) * x.dtype.itemsize)
    return COPIES * largest


def _sources(model: ModelConfig) -> dict[tuple[str, ...], Sources]:
    """Return the tensors of the files that each of our arrays is made from, by its path."""
    sources_of: dict[tuple[str, ...], Sources] = defaultdict(dict)
    for tensor in tensors(model):
        if tensor.row.kind == "copy":
            continue
        for number, part in enumerate(tensor.parts):
            sources_of[part.path][part.at] = tensor, number
    return sources_of


def _is_exact(sources: Sources) -> bool:
    """Return whether an array stays in float32 whatever the compute dtype is."""
    tensor, _ = next(iter(sources.values()))
    return tensor.row.kind in ("exact", "bias")


def _read_stack(
    path: tuple[Any, ...],
    x: jax.ShapeDtypeStruct,
    stored: Stored,
    axes: str,
    sources: Sources,
    checkpoint: PublishedCheckpoint,
) -> Stored:
    """Read a stack of layers, filled one after another in device memory."""
    stack = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype, device=a.sharding), stored)
    layer_of_x, layer_of_stored = _layer_of(x), jax.tree.map(_layer_of, stored)
    layer_axes = axes.partition(" ")[2]

    for layer in range(x.shape[0]):
        layer_sources = {
            index[1:]: source for index, source in sources.items() if index[0] == layer
        }
        piece = _read_stored(
            path, layer_of_x, layer_of_stored, layer_axes, layer_sources, checkpoint
        )
        stack = jax.tree.map(partial(_with_layer, layer), stack, piece)
        del piece  # a name would keep it while the next one is read
        jax.block_until_ready(stack)  # otherwise the arrays of many layers would wait in memory
    return stack


def _with_layer(layer: int, stack: jax.Array, piece: jax.Array) -> jax.Array:
    """Return the stack with this layer, in the same memory."""
    return _set_layer(stack.sharding)(stack, piece, layer)


def _layer_of(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Return one layer of a stack, without the layers' axis, which is never split."""
    place = x.sharding
    if isinstance(place, NamedSharding):
        spec = place.spec
        place = NamedSharding(place.mesh, type(spec)(*spec[1:]))
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=place)


def _read_stored(
    path: tuple[Any, ...],
    x: jax.ShapeDtypeStruct,
    stored: Stored,
    axes: str,
    sources: Sources,
    checkpoint: PublishedCheckpoint,
) -> Stored:
    """Read an array and store it as it is described."""
    array = _read_array(x, sources, checkpoint)
    if not isinstance(stored, Quantised):
        return array.astype(stored.dtype)

    convert = quantiser(path, axes, stored.kind, x)
    quantised = jax.block_until_ready(convert(array))
    array.delete()
    return quantised


def _read_array(
    wanted: jax.ShapeDtypeStruct, sources: Sources, checkpoint: PublishedCheckpoint
) -> jax.Array:
    """Read an array from one tensor, or from one tensor per layer and expert.

    Each tensor is read once; of the array the host holds the box that its own devices need.
    """
    box = _local_box(wanted)
    host = np.empty([side.stop - side.start for side in box], wanted.dtype)

    def read(index: tuple[int, ...]) -> None:
        tensor, number = sources[index]
        x = checkpoint.part(tensor, number)
        at = tuple([i - side.start for i, side in zip(index, box)])
        host[at] = x[box[len(index) :]]

    def is_local(index: tuple[int, ...]) -> bool:
        inside = [side.start <= i < side.stop for i, side in zip(index, box)]
        return all(inside)

    # Experts of other hosts are not read.
    local = list(filter(is_local, sources))
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(read, local):
            pass  # iterating raises what a reader raised

    def of_device(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        return host[_within(index, box, wanted.shape)]

    return jax.make_array_from_callback(wanted.shape, wanted.sharding, of_device)


def _local_box(wanted: jax.ShapeDtypeStruct) -> tuple[slice, ...]:
    """The smallest box of an array that contains the shards of this host's devices."""
    index_of = wanted.sharding.addressable_devices_indices_map(wanted.shape)
    shards = [index for index in index_of.values() if index is not None]
    box = []
    for axis, size in enumerate(wanted.shape):
        ranges = [shard[axis].indices(size) for shard in shards]
        low = min(start for start, _, _ in ranges)
        high = max(stop for _, stop, _ in ranges)
        box.append(slice(low, high))
    return tuple(box)


def _within(
    index: tuple[slice, ...],
    box: tuple[slice, ...],
    shape: tuple[int, ...],
) -> tuple[slice, ...]:
    """The slices of an array of this shape as slices of the box inside it."""
    moved = []
    for cut, side, size in zip(index, box, shape):
        start, stop, _ = cut.indices(size)
        moved.append(slice(start - side.start, stop - side.start))
    return tuple(moved)


@cache
def _set_layer(sharding: Sharding) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """A compiled function (stack, layer's array, number) -> stack, which reuses its memory."""

    def set_layer(stack, piece, layer):
        # Moved as integers: for bfloat16, XLA on CPU converts the whole stack to float32.
        raw = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[stack.dtype.itemsize]
        raw_stack = jax.lax.bitcast_convert_type(stack, raw)
        raw_piece = jax.lax.bitcast_convert_type(piece, raw)
        filled = jax.lax.dynamic_update_index_in_dim(raw_stack, raw_piece, layer, 0)
        return jax.lax.bitcast_convert_type(filled, stack.dtype)

    return jax.jit(set_layer, donate_argnums=0, out_shardings=sharding)
