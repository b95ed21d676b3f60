"""E5M6: a 12-bit float with 5 bits of exponent and 6 of mantissa, float16 with a shorter mantissa.

V3 section 3.3.3 keeps one activation in it for the backward pass, the input of attention's output
projection. On CPU its values are stored as float16, which holds all of them.
"""

import jax
import jax.numpy as jnp
from jax import Array

# the largest finite value
E5M6_MAX = 65024.0
MANTISSA_BITS = 6
# below this the values have a fixed distance, as in float16
LEAST_NORMAL = 2.0**-14


def rounded(scaled: Array) -> Array:
    """Return the nearest values of E5M6, as float16; halves go to the even mantissa.

    Values outside the range become the largest finite value of their sign.
    """
    x = jnp.clip(scaled.astype(jnp.float32), -E5M6_MAX, E5M6_MAX)

    # The power of two at or below each value, from its exponent bits
    magnitude = jnp.maximum(jnp.abs(x), LEAST_NORMAL)
    bits = jax.lax.bitcast_convert_type(magnitude, jnp.uint32)
    power = jax.lax.bitcast_convert_type(bits & jnp.uint32(0x7F800000), jnp.float32)

    step = power * 2.0**-MANTISSA_BITS
    nearest = jnp.round(x / step) * step
    return nearest.astype(jnp.float16)
