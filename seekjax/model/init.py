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

from seekjax.axes import matrix
from seekjax.config import ModelConfig

Index = tuple[slice, ...] | None


def init_params(model: ModelConfig, shapes: Any, axes: Any, seed: int, places: Any = None) -> Any:
    """Return arrays for a tree of ShapeDtypeStructs with logical axes.

    Matrices are normal with model.init_std, the scales of norms are ones. `places` has a Sharding
    for each array; without it everything is on the default device.
    """
    if places is None:
        default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        places = jax.tree.map(lambda _: default, shapes)
    paths = jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path), shapes)
    draw = partial(_init_array, model.init_std, seed)
    return jax.tree.map(draw, paths, shapes, axes, places)


def _init_array(
    std: float,
    seed: int,
    path: str,
    shape: jax.ShapeDtypeStruct,
    axes: str,
    place: jax.sharding.Sharding,
) -> jax.Array:
    """Return one weight, each device's part drawn where it lives."""
    parts = matrix(axes)
    if parts is None:
        values = partial(_ones, shape.shape)
    else:
        # Leading axes are stacks: one draw per matrix behind them
        stacked = len(parts.stack)
        key = np.random.SeedSequence((seed, zlib.crc32(path.encode())))
        values = partial(_normal, std, key, shape.shape[:stacked], shape.shape[stacked:])
    return jax.make_array_from_callback(shape.shape, place, values)


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
    ranges = [range(*cut.indices(size)) for cut, size in zip(cuts, stack)]
    inner = cuts[len(stack) :]
    blocks = [_matrix(key, at, stack, shape)[inner] for at in itertools.product(*ranges)]

    lengths = [len(positions) for positions in ranges]
    return std * np.stack(blocks).reshape(*lengths, *blocks[0].shape)


def _matrix(
    key: np.random.SeedSequence, at: tuple[int, ...], stack: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """Return the standard normal matrix at one position of the stack.

    A counter-based generator starts there directly.
    """
    number = int(np.ravel_multi_index(at, stack)) if stack else 0
    bits = np.random.Philox(key=key.generate_state(2, np.uint64), counter=[0, 0, 0, number])
    return np.random.Generator(bits).standard_normal(shape, np.float32)
