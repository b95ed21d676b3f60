"""Declaring weights: one string states an array's shape and its sharding."""

import itertools
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from seekjax.config import KernelConfig, ModelConfig
from seekjax.kernels.fp8 import linear
from seekjax.placement import AXES
from seekjax.quant.formats import Quantised, TrainedInFp8, Weight, product
from sharding.mesh import platform
from sharding.place import Named
from sharding.rules import split_by

M = TypeVar("M", bound="Module")


class Module(nn.Module):
    """A module that declares weights by logical axes; the config has the size of each axis."""

    model: ModelConfig
    kernel: KernelConfig = KernelConfig()

    def weight(self, name: str, axes: str, **sizes: int) -> Weight:
        """Return a matrix for `project` or `dense`, in the compute dtype.

        A float matrix is stored in float32, normal with the config's init_std. A matrix that is
        stored Quantised is returned as it is. Trained in FP8 are all matrices but embedding and
        head. `sizes` overrides the config's size of an axis.
        """
        stored = self.get_variable("params", name)
        if isinstance(stored, Quantised):
            return stored
        if self.kernel.dtype != "fp8" or "vocab" in axes.split():
            return self.array(name, axes, None, **sizes)

        w = self.array(name, axes, "float32", **sizes)
        fp8 = self.kernel.fp8
        return TrainedInFp8(w, fp8, fp8.attention_output if name == "w_o" else "e4m3")

    def array(
        self,
        name: str,
        axes: str,
        dtype: str | None = None,
        **sizes: int,
    ) -> Array:
        """Return a matrix that is never quantised, cast to `dtype` (default: the compute dtype).

        Raises ValueError for an axis that is not in seekjax/placement.py.
        """
        AXES.check(axes)
        shape = []
        for axis in axes.split():
            size = sizes[axis] if axis in sizes else self.model.size(axis)
            shape.append(size)

        def normal(key: Array) -> Named:
            standard = jax.random.normal(key, tuple(shape), jnp.float32)
            return Named(self.model.init_std * standard, axes)

        value: Any = self.param(name, normal)  # Flax unboxes it
        return value.astype(dtype or self.kernel.compute_dtype)

    def scale(self, name: str, axis: str) -> Array:
        """Return a norm's float32 scale, ones at first."""
        size = self.model.size(axis)

        def ones(key: Array) -> Named:
            return Named(jnp.ones(size, jnp.float32), axis)

        value: Any = self.param(name, ones)
        return value

    def build(self, module: type[M], **fields) -> M:
        """Return a submodule with the same settings."""
        return module(self.model, self.kernel, **fields)


def project(
    x_BTX: Array,
    *weights: Weight,
    keep: str = "product",
) -> list[Array]:
    """Return x times each of the matrices w_XY, [B, T, Y] each; X and Y may be several axes.

    `keep` names the results for the remat policies.

    The product has one axis of tokens instead of two, because the gradient of a weight sums over
    it, and XLA would transpose the activations to sum over two. On CPU one wide product is faster
    than several narrow ones, if there are enough tokens that joining the weights costs little.
    """
    B, T, *X = x_BTX.shape
    in_fp8 = [w_XY for w_XY in weights if isinstance(w_XY, TrainedInFp8)]
    others = [w_XY for w_XY in weights if not isinstance(w_XY, TrainedInFp8)]
    if in_fp8:
        assert not others, "a product is in FP8 with all of its weights or with none"
        return _project_in_fp8(x_BTX, in_fp8, keep)

    if split_by("sequence") > 1:
        # Joined axes that are both split would have to be gathered.
        x_mX = x_BTX
    else:
        x_mX = x_BTX.reshape(B * T, *X)

    def times(w_XY: Array | Quantised) -> Array:
        if isinstance(w_XY, Quantised):
            y_mY = product(x_mX, w_XY)
        else:
            y_mY = jnp.tensordot(x_mX, w_XY, len(X))
            y_mY = checkpoint_name(y_mY, keep)
        return y_mY.reshape(B, T, *y_mY.shape[x_mX.ndim - len(X) :])

    arrays = [w_XY for w_XY in others if not isinstance(w_XY, Quantised)]
    all_arrays = len(arrays) == len(others) > 1
    enough_tokens = X[0] <= B * T
    if not (all_arrays and enough_tokens and platform() == "cpu"):
        return [times(w_XY) for w_XY in others]

    shapes = {w_XY.shape for w_XY in arrays}
    if len(shapes) == 1:
        # Stack on a new axis: concatenating along a sharded axis would force a reshard.
        y_BT2Y = times(jnp.stack(arrays, len(X)))
        return [y_BT2Y[:, :, i] for i in range(len(arrays))]

    widths = [w_XY.shape[-1] for w_XY in arrays]
    ends = list(itertools.accumulate(widths))
    y_BTY = times(jnp.concatenate(arrays, -1))
    return jnp.split(y_BTY, ends[:-1], -1)


def _project_in_fp8(
    x_BTX: Array,
    weights: list[TrainedInFp8],
    keep: str,
) -> list[Array]:
    """Return the same products in FP8, for which several axes become one."""
    B, T, *X = x_BTX.shape
    x_BTK = x_BTX.reshape(B, T, -1)
    matrices = [w.array.reshape(x_BTK.shape[-1], -1) for w in weights]

    first = weights[0]
    outputs = []
    for w, y_BTN in zip(weights, linear(x_BTK, tuple(matrices), first.fp8, first.kept)):
        y_BTY = y_BTN.reshape(B, T, *w.shape[len(X) :])
        outputs.append(checkpoint_name(y_BTY, keep))
    return outputs


def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    """Return x / sqrt(mean(x^2) + eps) * scale over the last axis, computed in float32."""
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(x32 * x32, -1, keepdims=True)
    normed = x32 * jax.lax.rsqrt(mean_square + eps) * scale
    return normed.astype(x.dtype)
