"""FP8 as DeepSeek uses it (E4M3, V3 section 3.3.2): largest value, least scale, and rounding.

The one place of these constants: weights of 8 bits (formats), the latent cache and published
checkpoints all use it. The functions take NumPy or JAX arrays.
"""

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

E4M3 = np.dtype(jnp.float8_e4m3fn)
# the largest finite value: beyond it E4M3 has no infinity, only NaN
E4M3_MAX = 448.0
# the least that a block's largest value is taken to be, as in DeepSeek's own quantiser
E4M3_FLOOR = 1e-4
# side of the square blocks that share a scale, and length of an activation's groups
BLOCK = 128


def scale(largest: Any) -> Any:
    """Return the float32 scale of blocks with these largest absolute values."""
    array = _library(largest)
    floored = array.maximum(largest, np.float32(E4M3_FLOOR))
    return floored / np.float32(E4M3_MAX)


def clip(scaled: Any) -> Any:
    """Return scaled values within the range of E4M3, so that rounding makes no NaN."""
    return _library(scaled).clip(scaled, -E4M3_MAX, E4M3_MAX)


def rounded(scaled: Any) -> Any:
    """Return scaled values as E4M3."""
    return clip(scaled).astype(E4M3)


def _library(x: Any) -> ModuleType:
    return jnp if isinstance(x, Array) else np
