"""Declaring weights: one string states an array's shape and its sharding."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from seekjax.config import KernelConfig, ModelConfig
from seekjax.placement import AXES
from seekjax.quant.formats import Quantised, product
from sharding.mesh import platform
from sharding.place import Named


class Weighted(nn.Module):
    """A module that declares weights by their logical axes; the config knows the size of each
    axis."""

    model: ModelConfig
    kernel: KernelConfig = KernelConfig()

    def weight(self, name: str, axes: str, dtype: str | None = None, **sizes: int) -> jax.Array:
        """A float32 matrix, normal with the config's init_std, cast to `dtype` (default: the
        compute dtype).

        `sizes` overrides the config's size of an axis. What is stored Quantised is returned so: for
        `project`, or for `dense` to write out. Raises ValueError for an axis that is not in
        seekjax/placement.py.
        """
        AXES.check(axes)
        if isinstance(stored := self.get_variable("params", name), Quantised):
            return stored
        shape = tuple(sizes.get(axis, getattr(self.model, axis)) for axis in axes.split())
        value = self.param(
            name,
            lambda key: Named(
                self.model.init_std * jax.random.normal(key, shape, jnp.float32), axes
            ),
        )
        return value.astype(dtype or self.kernel.dtype)

    def scale(self, name: str, axis: str) -> jax.Array:
        """A norm's float32 scale, ones at first."""
        return self.param(
            name, lambda key: Named(jnp.ones(getattr(self.model, axis), jnp.float32), axis)
        )

    def build(self, module: type["Weighted"], **fields) -> "Weighted":
        """A submodule with the same settings."""
        return module(self.model, self.kernel, **fields)


def project(x_BTX: jax.Array, *weights: jax.Array, keep: str = "product") -> list[jax.Array]:
    """X times each of the matrices w_XY, [B, T, Y] each; X and Y may be several axes. `keep` names
    the result for the remat policies.

    One axis of tokens instead of two, because the gradient of a weight sums over it, and XLA would
    turn the activations around to sum over two. On CPU one wide product beats several narrow ones,
    once the tokens are so many that joining the weights costs little beside it.
    """
    B, T, *X = x_BTX.shape
    x_mX = x_BTX.reshape(B * T, *X)

    def times(w_XY):
        if isinstance(w_XY, Quantised):
            return product(x_mX, w_XY).reshape(B, T, *w_XY.shape[len(X) :])
        y_mY = checkpoint_name(jnp.tensordot(x_mX, w_XY, len(X)), keep)
        return y_mY.reshape(B, T, *y_mY.shape[1:])

    if (
        len(weights) == 1
        or platform() != "cpu"
        or X[0] > B * T
        or any(isinstance(w_XY, Quantised) for w_XY in weights)
    ):
        return [times(w_XY) for w_XY in weights]
    if (
        len({w_XY.shape for w_XY in weights}) == 1
    ):  # stacked on an axis of its own: joined, an axis that the mesh splits would be dealt anew
        y_BT2Y = times(jnp.stack(weights, len(X)))
        return [y_BT2Y[:, :, i] for i in range(len(weights))]
    ends = list(itertools.accumulate(w_XY.shape[-1] for w_XY in weights))
    return jnp.split(times(jnp.concatenate(weights, -1)), ends[:-1], -1)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """X / sqrt(mean(x^2) + eps) * scale over the last axis, in float32."""
    x32 = x.astype(jnp.float32)
    return (x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps) * scale).astype(
        x.dtype
    )
