"""The first values of all weights, drawn by NumPy on the host.

`Transformer.init` draws from the same distribution with jax.random, but compiling the random bits
of every weight takes longer than all the rest of a small run's start. Here nothing is compiled,
each device's part is drawn alone, and the values are the same on every backend and mesh.
"""

import itertools
import zlib
from typing import Any

import jax
import numpy as np

from seekjax.config import ModelConfig


def draw(model: ModelConfig, shapes: Any, axes: Any, seed: int, places: Any = None) -> Any:
    """Arrays for a tree of ShapeDtypeStructs with logical axes: normal with model.init_std for
    matrices, ones for the scales of norms.

    `places`: a NamedSharding for each; without it everything is on the default device.
    """
    if places is None:
        places = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    paths = jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path), shapes)

    def make(path: str, shape: jax.ShapeDtypeStruct, names: str, place) -> jax.Array:
        stacked = sum(
            name in ("layers", "experts") for name in names.split()[:-2]
        )  # leading axes: one draw per matrix behind them
        if len(names.split()) - ("layers" in names) < 2:
            return jax.make_array_from_callback(
                shape.shape, place, lambda part: np.ones(shape.shape, np.float32)[part]
            )
        key = np.random.SeedSequence((seed, zlib.crc32(path.encode())))

        def part_of(part: tuple[slice, ...]) -> np.ndarray:
            outer = [range(*cut.indices(size)) for cut, size in zip(part, shape.shape[:stacked])]
            blocks = [
                _matrix(key, at, shape.shape[:stacked], shape.shape[stacked:])[part[stacked:]]
                for at in itertools.product(*outer)
            ]
            return model.init_std * np.stack(blocks).reshape(*map(len, outer), *blocks[0].shape)

        return jax.make_array_from_callback(shape.shape, place, part_of)

    return jax.tree.map(make, paths, shapes, axes, places)


def _matrix(
    key: np.random.SeedSequence, at: tuple[int, ...], outer: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """The standard normal matrix at one place of the leading axes; a counter-based generator jumps
    there directly."""
    number = int(np.ravel_multi_index(at, outer)) if outer else 0
    bits = np.random.Philox(key=key.generate_state(2, np.uint64), counter=[0, 0, 0, number])
    return np.random.Generator(bits).standard_normal(shape, np.float32)
