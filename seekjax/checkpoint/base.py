"""The base of a run of adapters: frozen weights that its checkpoints name instead of holding.

base.json in the folder of a step says where the weights were, of which step, and what fingerprint
they have. The fingerprint is one of values: a copy, a moved folder, or a folder of another kind
with the same weights serves as well. A step without base.json holds its base itself.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from seekjax.errors import RunError, need
from seekjax.storage import read_json
from sharding.rules import in_use, sharding

NAME = "base.json"
Dtype = Literal["float32", "bfloat16"]
UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
SEEDS = (0x9E3779B1, 0x85EBCA77)  # two sums of 32 bits for each array


class Base(NamedTuple):
    """Weights that are elsewhere."""

    folder: str  # of the run or the published checkpoint, absolute
    beside: str  # the same from the run's folder, for two that move together
    step: int | None  # of a run
    dtype: Dtype  # in which the matrices of a published checkpoint were read
    fingerprint: str

    @property
    def text(self) -> str:
        """The contents of base.json."""
        return json.dumps(self._asdict(), indent=1) + "\n"

    @property
    def words(self) -> str:
        """The name of the weights in a sentence."""
        return self.folder if self.step is None else f"step {self.step} of {self.folder}"

    def places(self, run: Path) -> list[Path]:
        """Return where the weights may be, seen from the folder of the run."""
        beside = Path(os.path.normpath(run.absolute() / self.beside))
        return list(dict.fromkeys([beside, Path(self.folder)]))


# Returns the weights that a record names, in float32.
ReadBase = Callable[[Base], dict[str, Any]]


def base_of(folder: Path, step: int | None, dtype: Dtype, run: Path, params: Any) -> Base:
    """Return the record of weights that were read from a folder, for a run in `run`."""
    absolute = os.path.abspath(folder)
    beside = os.path.relpath(absolute, os.path.abspath(run))
    return Base(absolute, beside, step, dtype, fingerprint(params))


def read_base_record(step: Path) -> Base | None:
    """Return which base a step's adapters belong to; None if the step holds all of its weights.

    Raises RunError if the record cannot be read.
    """
    path = step / NAME
    if not path.exists():
        return None
    values = read_json(path, RunError)
    is_whole = isinstance(values, dict) and values.keys() == set(Base._fields)
    need(is_whole, f"{path} does not have the fields {', '.join(Base._fields)}.", RunError)

    base = Base(**values)
    texts = (base.folder, base.beside, base.fingerprint)
    need(
        all(isinstance(text, str) and "\0" not in text for text in texts)
        and base.dtype in get_args(Dtype)
        and (base.step is None or type(base.step) is int),
        f"{path} does not name a folder, a step, a dtype and a fingerprint.",
        RunError,
    )
    return base


def fingerprint(params: Any) -> str:
    """Return a hash of names, shapes and every bit of nested dicts of arrays.

    The sums in it are of integers modulo 2^32, hence the same on any mesh.
    """
    place = sharding("") if in_use() else None
    sums = jax.device_get(jax.jit(_sums, out_shardings=place)(params))
    digest = hashlib.sha256()
    for (path, x), of_x in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(sums)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        digest.update(f"{name} {x.dtype.name}{list(x.shape)} {of_x.tolist()}\n".encode())
    return digest.hexdigest()


def _sums(params: Any) -> Any:
    """Return two sums of mixed bits for each array of a tree, uint32 [2]."""
    return jax.tree.map(_sums_of_array, params)


def _sums_of_array(x: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x, UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)

    # The number of each element, so that two that change places are a difference.
    number = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        number = number * jnp.uint32(size) + along

    sums = []
    for seed in SEEDS:
        mixed = _mixed(bits ^ _mixed(number + jnp.uint32(seed)))
        sums.append(mixed.sum(dtype=jnp.uint32))
    return jnp.stack(sums)


def _mixed(x: jax.Array) -> jax.Array:
    """Return integers of which every bit depends on all bits (the end of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
