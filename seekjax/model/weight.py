"""Declaring weights: one string states an array's shape and its sharding."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from seekjax.config import KernelConfig, ModelConfig
from sharding.place import Named


class Weighted(nn.Module):
    """A module that declares weights by their logical axes; the config knows the size of each axis."""

    model: ModelConfig
    kernel: KernelConfig = KernelConfig()

    def weight(self, name: str, axes: str, dtype: str | None = None, **sizes: int) -> jax.Array:
        """A float32 matrix, normal with the config's init_std, cast to `dtype` (default: the compute dtype).

        `sizes` overrides the config's size of an axis.
        """
        shape = tuple(sizes.get(axis, getattr(self.model, axis)) for axis in axes.split())
        value = self.param(name, lambda key: Named(self.model.init_std * jax.random.normal(key, shape, jnp.float32), axes))
        return value.astype(dtype or self.kernel.dtype)

    def scale(self, name: str, axis: str) -> jax.Array:
        """A norm's float32 scale, ones at first."""
        return self.param(name, lambda key: Named(jnp.ones(getattr(self.model, axis), jnp.float32), axis))

    def build(self, module: type["Weighted"], **fields) -> "Weighted":
        """A submodule with the same settings."""
        return module(self.model, self.kernel, **fields)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32."""
    x32 = x.astype(jnp.float32)
    return (x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps) * scale).astype(x.dtype)
