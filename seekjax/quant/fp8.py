"""FP8 as DeepSeek uses it (E4M3, V3 section 3.3.2): largest value, least scale, and rounding.

The one place of these constants: training in FP8 (tiles), weights of 8 bits (formats), the latent
cache and published checkpoints all use it. The functions take NumPy or JAX arrays.

A block is divided by its scale, as in DeepSeek-V3's inference/kernel.py. Multiplying by 448 / amax
instead, as other kernels do, can differ by one rounding.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

E4M3 = np.dtype(jnp.float8_e4m3fn)
# the largest finite value: beyond it E4M3 has no infinity, only NaN
E4M3_MAX = 448.0
# the least that a block's largest value is taken to be, as in DeepSeek's own quantiser
E4M3_FLOOR = 1e-4
# the same for gradients. Those of a mean loss are small by the number of its tokens, and a floor of
# 1e-4 would round them to zero
GRADIENT_FLOOR = 1e-30
# side of the square blocks that share a scale, and length of an activation's groups
BLOCK = 128

# the bits of a positive float32
MANTISSA = np.uint32(0x007FFFFF)
EXPONENT = np.uint32(0x7F800000)


def scale(largest: Any, floor: float = E4M3_FLOOR) -> Any:
    """Return the float32 scale of blocks with these largest absolute values."""
    floored = _library(largest).maximum(largest, np.float32(floor))
    # By a constant XLA would not divide, but multiply with its reciprocal: this can differ by one
    # rounding, and so change which values are nearest.
    maximum = np.float32(E4M3_MAX) + np.float32(0) * floored
    return floored / maximum


def power_of_two(scale: Any) -> Any:
    """Return float32 scales rounded up to powers of two, which the format UE8M0 holds.

    The largest mantissa carries into the exponent, and the mantissa is cut off. A conversion to
    E8M0 would round to the nearest instead.
    """
    if isinstance(scale, Array):
        bits = jax.lax.bitcast_convert_type(scale.astype(jnp.float32), jnp.uint32)
        up = (bits + MANTISSA) & EXPONENT
        return jax.lax.bitcast_convert_type(up, jnp.float32)
    bits = np.asarray(scale, np.float32).view(np.uint32)
    return ((bits + MANTISSA) & EXPONENT).view(np.float32)


def clip(scaled: Any) -> Any:
    """Return scaled values within the range of E4M3, so that rounding makes no NaN."""
    return _library(scaled).clip(scaled, -E4M3_MAX, E4M3_MAX)


def rounded(scaled: Any) -> Any:
    """Return scaled values as E4M3."""
    return clip(scaled).astype(E4M3)


def _library(x: Any) -> ModuleType:
    return jnp if isinstance(x, Array) else np
