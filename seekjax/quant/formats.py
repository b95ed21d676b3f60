"""Weights of 8 or 4 bits with scales, in place of the float32 array of the same shape:
w = values * scale.

    int8   one scale per output channel
    int4   one scale per group of up to 128 along the contraction, two values in a byte
    fp8    E4M3 with one scale per block of up to 128 x 128 of the contraction and the last axis
           (V3 section 3.3.2)

Groups and blocks are the largest that divide their axis, so that all are full: 128 in every
published shape but the 64 rotary columns.
"""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from seekjax.quant import fp8
from sharding.mesh import platform
from sharding.rules import split_by

Kind = Literal["int8", "int4", "fp8"]

# the longest group or block that shares a scale
GROUP = 128
# shares of a group's range that int4 tries: the best may clip the group's outliers
INT4_RANGE = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
# An int8 product on CPU has a multiple of this many rows: XLA has a fast kernel for 8, and none for
# fewer.
INT8_ROWS = 8
# The most rows that a CPU multiplies int8 by int8. For more rows, converting the weight to float
# once costs less than it saves.
INT8_MAX_ROWS = 128
# the least scale of int8 and int4, so that zeros divide by something
TINY = 1e-30


class Quantised(struct.PyTreeNode):
    """A weight in few bits.

    `scale` has the rank of the weight and divides each of its axes; leading axes (layers, experts)
    may be sliced off both.
    """

    # int8, float8_e4m3fn, or for int4 uint8 with two neighbours along the last contracted axis in a
    # byte, the first in its low half
    values: jax.Array
    # float32
    scale: jax.Array
    kind: Kind = struct.field(pytree_node=False)
    # the contracted axes, counted from the end: (-2,) in most weights
    sums: tuple[int, ...] = struct.field(pytree_node=False)

    @property
    def inner(self) -> int:
        """The last contracted axis, counted from the end."""
        return self.sums[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        shape = list(self.values.shape)
        if self.kind == "int4":
            shape[self.inner] *= 2
        return tuple(shape)

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scale.nbytes

    def __getitem__(self, at: Any) -> "Quantised":
        """Return an entry of the leading axis."""
        return self.replace(values=self.values[at], scale=self.scale[at])

    def __rmatmul__(self, x_MX: jax.Array) -> jax.Array:
        """Return x @ w."""
        return product(x_MX, self)

    def dense(self, dtype: Any = "float32") -> jax.Array:
        """Return the weight as a float array."""
        x = unpack(self.values, self.inner) if self.kind == "int4" else self.values

        # Each axis in two: its groups, and the positions in a group
        blocks_shape, scale_shape = [], []
        for groups, size in zip(self.scale.shape, x.shape):
            blocks_shape += [groups, size // groups]
            scale_shape += [groups, 1]
        blocks = x.astype(jnp.float32).reshape(blocks_shape)
        return (blocks * self.scale.reshape(scale_shape)).reshape(x.shape).astype(dtype)

    def axes(self, axes: str) -> "Quantised":
        """Return the logical axes of both arrays, for a weight with these axes.

        A scale is whole along an axis that has one group, or groups that the mesh cannot split.
        """
        names = []
        for name, groups in zip(axes.split(), self.scale.shape):
            split = name == "-" or (groups > 1 and groups % split_by(name) == 0)
            names.append(name if split else "-")
        return self.replace(values=axes, scale=" ".join(names))

    def aligned(self, axes: str) -> "Quantised":
        """Return the same weight with repeated scales, if a mesh would cut through a group."""
        scale, shape = self.scale, self.shape
        for axis, name in enumerate(axes.split()):
            groups = scale.shape[axis]
            parts = 1 if name == "-" else split_by(name)
            if groups > 1 and groups % parts:
                length = shape[axis] // groups
                repeats = length // math.gcd(length, shape[axis] // parts)
                scale = jnp.repeat(scale, repeats, axis)
        return self.replace(scale=scale)


# A weight as a module has it.
Weight = jax.Array | Quantised


def dense(w: Weight, dtype: Any) -> jax.Array:
    """Return a weight as an array: a Quantised one in `dtype`, an array as it is."""
    return w.dense(dtype) if isinstance(w, Quantised) else w


def laid_out(weights: tuple[Weight, ...], axes: tuple[str, ...]) -> tuple[tuple, tuple]:
    """Return weights as a mesh can split them, and the logical axes of their arrays.

    Both are what `sharding.rules.local` takes.
    """
    aligned: list[Weight] = []
    layout: list[str | Quantised] = []
    for w, names in zip(weights, axes):
        if isinstance(w, Quantised):
            w = w.aligned(names)
            layout.append(w.axes(names))
        else:
            layout.append(names)
        aligned.append(w)
    return tuple(aligned), tuple(layout)


def product(x_mX: jax.Array, w: Quantised) -> jax.Array:
    """Return x times w_XY, [m, Y] in the dtype of x; X and Y may be several axes.

    On CPU a few rows are rounded to int8 too, each with its own scale: converting the weight to
    float first would take ten times as long.
    """
    m, K = x_mX.shape[0], math.prod(x_mX.shape[1:])
    if w.kind != "int8" or m > INT8_MAX_ROWS or platform() != "cpu":
        return jnp.tensordot(x_mX, w.dense(x_mX.dtype), x_mX.ndim - 1)

    # Rows in int8, padded to the fast kernel's multiple
    rows_mK = x_mX.reshape(m, K).astype(jnp.float32)
    size_m1 = jnp.maximum(jnp.abs(rows_mK).max(-1, keepdims=True), TINY) / 127
    x_mK = jnp.round(rows_mK / size_m1).astype(jnp.int8)
    x_rK = jnp.pad(x_mK, ((0, -m % INT8_ROWS), (0, 0)))

    y_rY = jax.lax.dot(x_rK, w.values.reshape(K, -1), preferred_element_type=jnp.int32)
    y_mY = y_rY[:m].astype(jnp.float32) * size_m1 * w.scale.reshape(1, -1)
    return y_mY.astype(x_mX.dtype).reshape(m, *w.shape[x_mX.ndim - 1 :])


def quantise(w: jax.Array, kind: Kind, sums: tuple[int, ...]) -> Quantised:
    """Return the nearest weight of a format; `sums` are the contracted axes, from the end.

    int4 becomes int8 if the last contracted axis has an odd length.
    """
    w = w.astype(jnp.float32)
    if kind == "fp8":
        return _fp8(w, sums)
    if kind == "int4" and w.shape[sums[-1]] % 2 == 0:
        return _int4(w, sums)

    scale = jnp.maximum(jnp.abs(w).max(sums, keepdims=True), TINY) / 127
    return Quantised(jnp.round(w / scale).astype(jnp.int8), scale, "int8", sums)


def block(size: int, even: bool = False) -> int:
    """Return the length of a group along an axis: the largest divisor of its size up to 128.

    `even`: the length must be even, because two values share a byte.
    """
    step = 2 if even else 1
    fits = [d for d in range(step, GROUP + 1, step) if size % d == 0]
    return max(fits)


def _fp8(w: jax.Array, sums: tuple[int, ...]) -> Quantised:
    """One scale per block of the last contracted axis and the last axis."""
    inner = sums[-1]
    rows, columns = block(w.shape[inner]), block(w.shape[-1])

    largest = _largest(jnp.abs(w), inner, w.shape[inner] // rows)
    largest = _largest(largest, -1, w.shape[-1] // columns)
    scale = fp8.scale(largest)
    scale_of_each = jnp.repeat(jnp.repeat(scale, rows, inner), columns, -1)
    return Quantised(fp8.rounded(w / scale_of_each), scale, "fp8", sums)


def _largest(x: jax.Array, axis: int, groups: int) -> jax.Array:
    """Return the largest value of each of this many groups along an axis."""
    axis %= x.ndim
    return x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :]).max(axis + 1)


def _int4(w: jax.Array, sums: tuple[int, ...]) -> Quantised:
    """Of the ranges tried, each group has the one with the least squared error.

    Values are from -8 to 7; in the plain range the extreme value of a group becomes the -8.
    """
    inner = sums[-1]
    axis, size = inner % w.ndim, w.shape[inner]
    n = size // block(size, even=True)
    groups = w.reshape(*w.shape[:axis], n, size // n, *w.shape[axis + 1 :])
    low = groups.min(axis + 1, keepdims=True)
    high = groups.max(axis + 1, keepdims=True)
    extreme = jnp.where(-low > high, low, high)
    extreme = jnp.where(extreme == 0, TINY, extreme)

    def rounded(scale):
        return jnp.clip(jnp.round(groups / scale), -8, 7)

    def error(scale):
        return jnp.square(rounded(scale) * scale - groups).sum(axis + 1, keepdims=True)

    best = extreme / -8
    least = error(best)
    for share in INT4_RANGE:
        for half in (-8, 7):
            scale = share * extreme / half
            now = error(scale)
            best = jnp.where(now < least, scale, best)
            least = jnp.minimum(now, least)

    values = rounded(best).astype(jnp.int8).reshape(w.shape)
    return Quantised(pack(values, inner), best.squeeze(axis + 1), "int4", sums)


def pack(values: jax.Array, inner: int) -> jax.Array:
    """Return int8 from -8 to 7 as bytes of two neighbours along an axis."""
    nibbles = values.astype(jnp.uint8) & 15
    size = values.shape[inner]
    take = partial(jax.lax.slice_in_dim, nibbles, axis=inner % values.ndim, stride=2)
    return take(0, size - 1) | take(1, size) << 4


def unpack(packed: jax.Array, inner: int) -> jax.Array:
    """Return the inverse of `pack`."""
    axis = inner % packed.ndim
    pairs = jnp.stack([packed << 4, packed], axis + 1)
    # the shift of an int8 keeps its sign
    halves = pairs.astype(jnp.int8) >> 4
    return halves.reshape(*packed.shape[:axis], -1, *packed.shape[axis + 1 :])
