"""The first values of all weights, drawn by NumPy on the host.

`Transformer.init` draws from the same distribution with jax.random, but compiling the random bits
of every weight takes longer than everything else at the start of a small run. This module compiles
nothing, draws each device's part alone, and has the same values on every backend and mesh.
"""

import itertools
import zlib
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from seekjax.axes import matrix
from seekjax.config import ModelConfig

Index = tuple[slice, ...] | None


def init_params(
    model: ModelConfig,
    shapes: Any,
    axes: Any,
    seed: int,
    places: Any = None,
) -> Any:
    """Return arrays for a tree of ShapeDtypeStructs with logical axes.

    Matrices are normal with model.init_std, the scales of norms are ones. `places` has a Sharding
    for each array; without it everything is on the default device.
    """
    if places is None:
        default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        places = jax.tree.map(lambda _: default, shapes)
    draw = partial(_init_array, model.init_std, seed)
    return jax.tree_util.tree_map_with_path(draw, shapes, axes, places)


def _init_array(
    std: float,
    seed: int,
    path: tuple,
    shape: jax.ShapeDtypeStruct,
    axes: str,
    sharding: jax.sharding.Sharding,
) -> Array:
    """Return one weight, each device's part drawn where it lives."""
    parts = matrix(axes)
    if parts is None:
        values = partial(_ones, shape.shape)
    else:
        # Leading axes are stacks: one draw per matrix behind them
        stacked = len(parts.stack)
        stack, inner = shape.shape[:stacked], shape.shape[stacked:]
        name = jax.tree_util.keystr(path)
        key = np.random.SeedSequence((seed, zlib.crc32(name.encode())))
        values = partial(_normal, std, key, stack, inner)
    return jax.make_array_from_callback(shape.shape, sharding, values)


def _ones(shape: tuple[int, ...], index: Index) -> np.ndarray:
    return np.ones(shape, np.float32)[index or ()]


def _normal(
    std: float,
    key: np.random.SeedSequence,
    stack: tuple[int, ...],
    shape: tuple[int, ...],
    index: Index,
) -> np.ndarray:
    """Return a part of a stack of normal matrices."""
    cuts = index or ()
    ranges = []
    for cut, size in zip(cuts, stack):
        ranges.append(range(*cut.indices(size)))

    blocks = []
    for at in itertools.product(*ranges):
        values = _matrix(key, at, stack, shape)
        blocks.append(values[cuts[len(stack) :]])

    lengths = [len(positions) for positions in ranges]
    stacked = np.stack(blocks)
    return std * stacked.reshape(*lengths, *blocks[0].shape)


def _matrix(
    key: np.random.SeedSequence,
    at: tuple[int, ...],
    stack: tuple[int, ...],
    shape: tuple[int, ...],
) -> np.ndarray:
    """Return the standard normal matrix at one position of the stack.

    A counter-based generator starts there directly.
    """
    number = int(np.ravel_multi_index(at, stack)) if stack else 0
    words = key.generate_state(2, np.uint64)
    bits = np.random.Philox(key=words, counter=[0, 0, 0, number])
    return np.random.Generator(bits).standard_normal(shape, np.float32)
