"""Weights of 8 or 4 bits with scales beside them, in place of the float32 array of the same shape:
w = values * scale.

    int8   one scale per output channel
    int4   one scale per group of up to 128 along the contraction, two values in a byte
    # E4M3 with one scale per block of up to 128 x 128 of the contraction and the last axis (V3
    # section 3.3.2)
    fp8

Groups and blocks are the largest that divide their axis, so there are no ragged ones: 128 in every
published shape but the 64 rotary columns.
"""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from sharding.mesh import platform
from sharding.rules import split_by

Kind = Literal["int8", "int4", "fp8"]
GROUP = 128
E4M3_MAX, E4M3_FLOOR = (
    448.0,
    1e-4,
)  # largest value, and the least that a block's largest value is taken to be (DeepSeek's quantiser)
INT4_RANGE = (
    0.7,
    0.75,
    0.8,
    0.85,
    0.9,
    0.95,
    1.0,
)  # shares of a group's range that are tried: the best may clip its outliers
ROWS = 8  # of an int8 product on CPU: XLA has a fast kernel for so many, and none for fewer
# rows up to which a CPU multiplies int8 by int8; for more, writing the matrix out once costs less
# than it saves
FEW = 128


class Quantised(struct.PyTreeNode):
    """A weight. `scale` has the rank of the weight and divides each of its axes; leading axes
    (layers, experts) may be sliced off both."""

    # int8, float8_e4m3fn, or for int4 uint8 with two neighbours along `inner` in a byte, the first
    # in its low half
    values: jax.Array
    scale: jax.Array  # float32
    kind: Kind = struct.field(pytree_node=False)
    inner: int = struct.field(
        pytree_node=False
    )  # the last contracted axis, counted from the end: -2 in most weights

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        shape = list(self.values.shape)
        shape[self.inner] *= 2 if self.kind == "int4" else 1
        return tuple(shape)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scale.nbytes

    def __getitem__(self, at) -> "Quantised":
        """Without its leading axis."""
        return self.replace(values=self.values[at], scale=self.scale[at])

    def __rmatmul__(self, x_MX: jax.Array) -> jax.Array:
        """X @ w."""
        return product(x_MX, self)

    def dense(self, dtype="float32") -> jax.Array:
        """The weight that it stands for."""
        x = unpack(self.values, self.inner) if self.kind == "int4" else self.values
        cut = [(n, size // n) for n, size in zip(self.scale.shape, x.shape)]
        blocks = x.astype(jnp.float32).reshape([part for pair in cut for part in pair])
        return (
            (blocks * self.scale.reshape([part for n, _ in cut for part in (n, 1)]))
            .reshape(x.shape)
            .astype(dtype)
        )

    def axes(self, axes: str) -> "Quantised":
        """The logical axes of both arrays of a weight with these: a scale is whole along an axis
        that it has one of, or too few to split."""
        each = [
            name if name == "-" or (n > 1 and n % split_by(name) == 0) else "-"
            for name, n in zip(axes.split(), self.scale.shape)
        ]
        return self.replace(values=axes, scale=" ".join(each))

    def aligned(self, axes: str) -> "Quantised":
        """The same weight with scales so fine that a mesh which splits these axes cuts through no
        group."""
        scale, shape = self.scale, self.shape
        for axis, name in enumerate(axes.split()):
            n, parts = scale.shape[axis], 1 if name == "-" else split_by(name)
            if n > 1 and n % parts:
                group = shape[axis] // n
                scale = jnp.repeat(scale, group // math.gcd(group, shape[axis] // parts), axis)
        return self.replace(scale=scale)


def dense(w, dtype) -> jax.Array:
    """A weight as an array, whether quantised or not."""
    return w.dense(dtype) if isinstance(w, Quantised) else w


def laid_out(weights: tuple, axes: tuple[str, ...]) -> tuple[tuple, tuple]:
    """Weights as a mesh can split them, and the logical axes of their arrays: what `local`
    takes."""
    weights = tuple(
        w.aligned(names) if isinstance(w, Quantised) else w for w, names in zip(weights, axes)
    )
    return weights, tuple(
        w.axes(names) if isinstance(w, Quantised) else names for w, names in zip(weights, axes)
    )


def product(x_mX: jax.Array, w: Quantised) -> jax.Array:
    """X times w_XY, [m, Y] in the dtype of x; X and Y may be several axes.

    A few rows on CPU are themselves rounded to int8, each with a scale of its own: writing the
    matrix out first would take ten times as long.
    """
    m, K = x_mX.shape[0], math.prod(x_mX.shape[1:])
    if w.kind != "int8" or m > FEW or platform() != "cpu":
        return jnp.tensordot(x_mX, w.dense(x_mX.dtype), x_mX.ndim - 1)
    rows_mK = x_mX.reshape(m, K).astype(jnp.float32)
    size_m1 = jnp.maximum(jnp.abs(rows_mK).max(-1, keepdims=True), 1e-30) / 127
    x_rK = jnp.pad(jnp.round(rows_mK / size_m1).astype(jnp.int8), ((0, -m % ROWS), (0, 0)))
    y_rY = jax.lax.dot(x_rK, w.values.reshape(K, -1), preferred_element_type=jnp.int32)
    y_mY = y_rY[:m].astype(jnp.float32) * size_m1 * w.scale.reshape(1, -1)
    return y_mY.astype(x_mX.dtype).reshape(m, *w.shape[x_mX.ndim - 1 :])


def contracted(axes: str) -> tuple[int, ...]:
    """Which axes of a weight its products sum over, counted from the end: the first that is neither
    layers nor experts, or both of a head's."""
    names = axes.split()
    first = next(i for i, name in enumerate(names) if name not in ("layers", "experts"))
    return tuple(
        i - len(names) for i in ((first, first + 1) if names[first] == "heads" else (first,))
    )


def quantise(w: jax.Array, kind: Kind, sums: tuple[int, ...]) -> Quantised:
    """The nearest weight of a format, `sums` being its contracted axes; int4 becomes int8 where the
    contraction is odd."""
    w, inner = w.astype(jnp.float32), sums[-1]
    if kind == "int4" and w.shape[inner] % 2:
        kind = "int8"
    if kind == "int8":
        scale = jnp.maximum(jnp.abs(w).max(sums, keepdims=True), 1e-30) / 127
        return Quantised(jnp.round(w / scale).astype(jnp.int8), scale, kind, inner)
    if kind == "fp8":
        n, last = w.shape[inner] // block(w.shape[inner]), w.shape[-1] // block(w.shape[-1])
        scale = (
            jnp.maximum(_largest(_largest(jnp.abs(w), inner, n), -1, last), E4M3_FLOOR) / E4M3_MAX
        )
        whole = jnp.repeat(jnp.repeat(scale, w.shape[inner] // n, inner), w.shape[-1] // last, -1)
        return Quantised(
            jnp.clip(w / whole, -E4M3_MAX, E4M3_MAX).astype(jnp.float8_e4m3fn), scale, kind, inner
        )
    return _int4(w, inner)


def block(size: int, even: bool = False) -> int:
    """The length of a group along an axis: the largest divisor of its size up to 128, even where
    two values share a byte."""
    return max(d for d in range(1, GROUP + 1) if size % d == 0 and not (even and d % 2))


def _largest(x: jax.Array, axis: int, parts: int) -> jax.Array:
    """The largest of each of so many parts along an axis."""
    axis %= x.ndim
    return x.reshape(*x.shape[:axis], parts, -1, *x.shape[axis + 1 :]).max(axis + 1)


def _int4(w: jax.Array, inner: int) -> Quantised:
    """Of the ranges tried, each group takes the one with the least squared error. -8 to 7, the
    extreme value of a group taking the -8."""
    axis, size = inner % w.ndim, w.shape[inner]
    n = size // block(size, even=True)
    groups = w.reshape(*w.shape[:axis], n, size // n, *w.shape[axis + 1 :])
    low, high = groups.min(axis + 1, keepdims=True), groups.max(axis + 1, keepdims=True)
    extreme = jnp.where(-low > high, low, high)
    extreme = jnp.where(extreme == 0, 1e-30, extreme)

    def rounded(scale):
        return jnp.clip(jnp.round(groups / scale), -8, 7)

    def error(scale):
        return jnp.square(rounded(scale) * scale - groups).sum(axis + 1, keepdims=True)

    best = extreme / -8
    least = error(best)
    for scale in [share * extreme / half for share in INT4_RANGE for half in (-8, 7)]:
        now = error(scale)
        best, least = jnp.where(now < least, scale, best), jnp.minimum(now, least)
    values = rounded(best).astype(jnp.int8).reshape(w.shape)
    return Quantised(pack(values, inner), best.squeeze(axis + 1), "int4", inner)


def pack(values: jax.Array, inner: int) -> jax.Array:
    """int8 from -8 to 7 as bytes of two neighbours along an axis."""
    take = partial(
        jax.lax.slice_in_dim, values.astype(jnp.uint8) & 15, axis=inner % values.ndim, stride=2
    )
    size = values.shape[inner]
    return take(0, size - 1) | take(1, size) << 4


def unpack(packed: jax.Array, inner: int) -> jax.Array:
    """The inverse of `pack`."""
    axis = inner % packed.ndim
    halves = (
        jnp.stack([packed << 4, packed], axis + 1).astype(jnp.int8) >> 4
    )  # the shift of an int8 keeps its sign
    return halves.reshape(*packed.shape[:axis], -1, *packed.shape[axis + 1 :])
