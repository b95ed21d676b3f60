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
from jax import Array

from seekjax.config import Fp8Config
from seekjax.config.formats import Kind
from seekjax.quant import fp8
from sharding.mesh import platform
from sharding.rules import split_by

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
    values: Array
    # float32
    scale: Array
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
        values, scale = self.values[at], self.scale[at]
        return self.replace(values=values, scale=scale)

    def __rmatmul__(self, x_MX: Array) -> Array:
        """Return x @ w."""
        return product(x_MX, self)

    @partial(jax.jit, static_argnames="dtype", inline=True)
    def dense(self, dtype: Any = "float32") -> Array:
        """Return the weight as a float array, by one program."""
        x = self.values
        if self.kind == "int4":
            x = unpack(x, self.inner)

        # Each axis in two: its groups, and the positions in a group
        blocks_shape, scale_shape = [], []
        for groups, size in zip(self.scale.shape, x.shape):
            blocks_shape += [groups, size // groups]
            scale_shape += [groups, 1]
        blocks = x.astype(jnp.float32).reshape(blocks_shape)
        scaled = blocks * self.scale.reshape(scale_shape)
        return scaled.reshape(x.shape).astype(dtype)

    def axes(self, axes: str) -> "Quantised":
        """Return the logical axes of both arrays, for a weight with these axes.

        A scale is whole along an axis that has one group, or groups that the mesh cannot split.
        """
        names = []
        for name, groups in zip(axes.split(), self.scale.shape):
            whole = name == "-" or groups == 1 or groups % split_by(name)
            names.append("-" if whole else name)
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


class TrainedInFp8(struct.PyTreeNode):
    """A float32 weight whose products round it, and what it is multiplied with, to FP8.

    See seekjax/kernels/fp8.py.
    """

    array: Array
    fp8: Fp8Config = struct.field(pytree_node=False)
    # the format in which what it is multiplied with is kept for the backward pass
    kept: Literal["e4m3", "e5m6"] = struct.field(pytree_node=False, default="e4m3")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.array.shape

    def dense(self, dtype: Any = "float32") -> Array:
        """Return the weight as an array, not rounded to FP8."""
        return self.array.astype(dtype)


# A weight as a module has it.
Weight = Array | Quantised | TrainedInFp8


def dense(w: Weight, dtype: Any) -> Array:
    """Return a weight as an array: one of another format in `dtype`, an array as it is."""
    return w.dense(dtype) if isinstance(w, Quantised | TrainedInFp8) else w


def trained(w: Weight, dtype: Any) -> Array | TrainedInFp8:
    """Return a weight in a form that has gradients: a Quantised one as an array in `dtype`."""
    return w.dense(dtype) if isinstance(w, Quantised) else w


def rows(w_VD: Weight, id_BT: Array, dtype: Any) -> Array:
    """Return rows of the embedding, [B, T, D]: of a Quantised one in `dtype`."""
    if not isinstance(w_VD, Quantised):
        return dense(w_VD, dtype)[id_BT]
    x_BTD = w_VD.values[id_BT].astype(jnp.float32) * w_VD.scale[id_BT]
    return x_BTD.astype(dtype)


def laid_out(
    weights: tuple[Weight, ...],
    axes: tuple[str, ...],
) -> tuple[tuple, tuple]:
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
            w = dense(w, "float32")
            layout.append(names)
        aligned.append(w)
    return tuple(aligned), tuple(layout)


def product(x_mX: Array, w: Quantised) -> Array:
    """Return x times w_XY, [m, Y] in the dtype of x; X and Y may be several axes.

    On CPU a few rows are rounded to int8 too, each with its own scale: converting the weight to
    float first would take ten times as long.
    """
    m, *X = x_mX.shape
    K = math.prod(X)
    if w.kind != "int8" or m > INT8_MAX_ROWS or platform() != "cpu":
        w_XY = w.dense(x_mX.dtype)
        return jnp.tensordot(x_mX, w_XY, len(X))

    # Rows in int8, padded to the fast kernel's multiple
    rows_mK = x_mX.reshape(m, K).astype(jnp.float32)
    largest_m1 = jnp.abs(rows_mK).max(-1, keepdims=True)
    scale_m1 = jnp.maximum(largest_m1, TINY) / 127
    x_mK = jnp.round(rows_mK / scale_m1).astype(jnp.int8)
    padding = -m % INT8_ROWS
    x_rK = jnp.pad(x_mK, ((0, padding), (0, 0)))

    # The product in integers, and both scales
    w_KY = w.values.reshape(K, -1)
    y_rY = jax.lax.dot(x_rK, w_KY, preferred_element_type=jnp.int32)
    y_mY = y_rY[:m].astype(jnp.float32) * scale_m1 * w.scale.reshape(1, -1)

    Y = w.shape[len(X) :]
    return y_mY.astype(x_mX.dtype).reshape(m, *Y)


def quantise(
    w: Array,
    kind: Kind,
    sums: tuple[int, ...],
) -> Quantised:
    """Return the nearest weight of a format; `sums` are the contracted axes, from the end.

    int4 becomes int8 if the last contracted axis has an odd length.
    """
    w = w.astype(jnp.float32)
    if kind == "fp8":
        return _fp8(w, sums)
    even = w.shape[sums[-1]] % 2 == 0
    if kind == "int4" and even:
        return _int4(w, sums)

    largest = jnp.abs(w).max(sums, keepdims=True)
    scale = jnp.maximum(largest, TINY) / 127
    values = jnp.round(w / scale).astype(jnp.int8)
    return Quantised(values, scale, "int8", sums)


def block(size: int, even: bool = False) -> int:
    """Return the length of a group along an axis: the largest divisor of its size up to 128.

    `even`: the length must be even, because two values share a byte.
    """
    step = 2 if even else 1
    fits = [d for d in range(step, GROUP + 1, step) if size % d == 0]
    return max(fits)


def _fp8(w: Array, sums: tuple[int, ...]) -> Quantised:
    """Round with one scale per block of the last contracted axis and the last axis."""
    inner = sums[-1]
    height, width = w.shape[inner], w.shape[-1]
    rows, columns = block(height), block(width)

    # The scale of each block
    largest = _largest(jnp.abs(w), inner, height // rows)
    largest = _largest(largest, -1, width // columns)
    scale = fp8.scale(largest)

    # The scale of each value
    scale_of_each = jnp.repeat(scale, rows, inner)
    scale_of_each = jnp.repeat(scale_of_each, columns, -1)
    return Quantised(fp8.rounded(w / scale_of_each), scale, "fp8", sums)


def _largest(x: Array, axis: int, groups: int) -> Array:
    """Return the largest value of each of this many groups along an axis."""
    axis %= x.ndim
    return _grouped(x, axis, groups).max(axis + 1)


def _grouped(x: Array, axis: int, groups: int) -> Array:
    """Return x with an axis in two: the groups, and the positions in a group."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    return x.reshape(*before, groups, -1, *after)


def _int4(w: Array, sums: tuple[int, ...]) -> Quantised:
    """Round each group in the range, of those tried, with the least squared error.

    Values are from -8 to 7; in the plain range the extreme value of a group becomes the -8.
    """
    inner = sums[-1]
    axis, size = inner % w.ndim, w.shape[inner]
    groups = _grouped(w, axis, size // block(size, even=True))

    # The extreme value of each group
    low = groups.min(axis + 1, keepdims=True)
    high = groups.max(axis + 1, keepdims=True)
    extreme = jnp.where(-low > high, low, high)
    extreme = jnp.where(extreme == 0, TINY, extreme)

    def rounded(scale):
        return jnp.clip(jnp.round(groups / scale), -8, 7)

    def error(scale):
        difference = rounded(scale) * scale - groups
        return jnp.square(difference).sum(axis + 1, keepdims=True)

    # The best of the ranges, in a loop: written out, they take long to compile
    share_n = jnp.repeat(jnp.array(INT4_RANGE, jnp.float32), 2)
    half_n = jnp.tile(jnp.array((-8, 7), jnp.float32), len(INT4_RANGE))

    def better(n, found):
        best, least = found
        scale = share_n[n] * extreme / half_n[n]
        now = error(scale)
        return jnp.where(now < least, scale, best), jnp.minimum(now, least)

    best = extreme / -8
    best, _ = jax.lax.fori_loop(0, len(share_n), better, (best, error(best)))

    values = rounded(best).astype(jnp.int8)
    packed = pack(values.reshape(w.shape), inner)
    return Quantised(packed, best.squeeze(axis + 1), "int4", sums)


def pack(values: Array, inner: int) -> Array:
    """Return int8 from -8 to 7 as bytes of two neighbours along an axis."""
    nibbles = values.astype(jnp.uint8) & 15
    axis, size = inner % values.ndim, values.shape[inner]
    every_second = partial(jax.lax.slice_in_dim, nibbles, axis=axis, stride=2)
    low, high = every_second(0, size - 1), every_second(1, size)
    return low | high << 4


def unpack(packed: Array, inner: int) -> Array:
    """Return the inverse of `pack`."""
    axis = inner % packed.ndim
    pairs = jnp.stack([packed << 4, packed], axis + 1)
    # the shift of an int8 keeps its sign
    halves = pairs.astype(jnp.int8) >> 4
    before, after = packed.shape[:axis], packed.shape[axis + 1 :]
    return halves.reshape(*before, -1, *after)
