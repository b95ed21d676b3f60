"""A published checkpoint into sharded arrays, one tensor of the files at a time.

Our layers are stacked, so each stack is filled layer by layer in device memory. The host holds one
layer of one array, and only the part that its own devices need.
"""

import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding

from seekjax.config import KernelConfig, ModelConfig
from seekjax.hf.names import Tensor, tensors
from seekjax.hf.published import PublishedCheckpoint, open_published
from seekjax.model.abstract import abstract_variables

# Of one of our arrays: index in its leading axes -> (tensor of the files, number of its part).
Sources = dict[tuple[int, ...], tuple[Tensor, int]]

READERS = 2  # threads: one reads while the other rearranges; each holds a tensor


def load(directory: Path, kernel: KernelConfig | None = None) -> tuple[ModelConfig, dict]:
    """Return the model of a published checkpoint and its {"params", "balance"}.

    The arrays are placed by the rules on the mesh in use, or on the default device. Matrices are in
    kernel.dtype, or in KernelConfig's default; norms, router and bias in float32. No tensor is read
    before names, shapes and dtypes of all are known to fit config.json. Raises WeightsError.
    """
    kernel = kernel or KernelConfig()
    checkpoint = open_published(Path(directory).expanduser())
    for note in checkpoint.notes:
        print(f"note: {note}", file=sys.stderr)
    model = checkpoint.config.model
    sources_of = _sources(model)

    def read(path: tuple[Any, ...], wanted: jax.ShapeDtypeStruct) -> jax.Array:
        names = tuple(key.key for key in path)
        if names not in sources_of:  # the balance bias of a model that routes without one
            return jnp.zeros(wanted.shape, wanted.dtype, device=wanted.sharding)

        sources = sources_of[names]
        if not _is_exact(sources):
            wanted = wanted.update(dtype=kernel.dtype)
        if names[1].endswith("_layers"):
            return _read_stack(wanted, sources, checkpoint)
        return _read_array(wanted, sources, checkpoint)

    abstract = abstract_variables(model, replace(kernel, weights="float32"))
    return model, jax.tree_util.tree_map_with_path(read, abstract)


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
    wanted: jax.ShapeDtypeStruct, sources: Sources, checkpoint: PublishedCheckpoint
) -> jax.Array:
    """Read a stack of layers, filled one after another in device memory."""
    stack = jnp.zeros(wanted.shape, wanted.dtype, device=wanted.sharding)
    layer_sharding = wanted.sharding
    if isinstance(layer_sharding, NamedSharding):  # without the layers' axis, which is never split
        spec = layer_sharding.spec
        layer_sharding = NamedSharding(layer_sharding.mesh, type(spec)(*spec[1:]))
    wanted_layer = jax.ShapeDtypeStruct(wanted.shape[1:], wanted.dtype, sharding=layer_sharding)

    set_layer = _set_layer(wanted.sharding)
    for layer in range(wanted.shape[0]):
        layer_sources = {
            index[1:]: source for index, source in sources.items() if index[0] == layer
        }
        # Without a name for the layer's array: a name would keep it while the next one is read.
        stack = set_layer(stack, _read_array(wanted_layer, layer_sources, checkpoint), layer)
        jax.block_until_ready(stack)  # otherwise the arrays of many layers would wait in memory
    return stack


def _read_array(
    wanted: jax.ShapeDtypeStruct, sources: Sources, checkpoint: PublishedCheckpoint
) -> jax.Array:
    """Read an array from one tensor, or from one tensor per expert.

    Each tensor is read once; of the array the host holds the box that its own devices need.
    """
    box = _local_box(wanted)
    host = np.empty([side.stop - side.start for side in box], wanted.dtype)

    def read(index: tuple[int, ...]) -> None:
        tensor, number = sources[index]
        x = checkpoint.part(tensor, number)
        if index:
            [expert] = index
            host[expert - box[0].start] = x[box[1:]]
        else:
            host[...] = x[box]

    # Experts of other hosts are not read.
    local = [index for index in sources if not index or box[0].start <= index[0] < box[0].stop]
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
        raw = {2: jnp.uint16, 4: jnp.uint32}[stack.dtype.itemsize]
        raw_stack = jax.lax.bitcast_convert_type(stack, raw)
        raw_piece = jax.lax.bitcast_convert_type(piece, raw)
        filled = jax.lax.dynamic_update_index_in_dim(raw_stack, raw_piece, layer, 0)
        return jax.lax.bitcast_convert_type(filled, stack.dtype)

    return jax.jit(set_layer, donate_argnums=0, out_shardings=sharding)
