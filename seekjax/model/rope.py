"""Rotary positions and their YaRN extension (V2 section 2.1.3 and 3.1.4; YaRN: 2309.00071)."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from seekjax.config import ModelConfig, RopeConfig


def extended(model: ModelConfig) -> bool:
    """Return whether YaRN is on: at every length, in a model with a longer context than its
    first training had.
    """
    return model.context > model.rope.original_context and model.rope.factor > 1


def rope_frequencies(model: ModelConfig) -> np.ndarray:
    """Return radians per position of each of the rotary / 2 pairs.

    They are base^(-2i/R), with slow pairs divided by YaRN's factor.
    """
    rope, width = model.rope, model.rotary
    exponent_r = -np.arange(0, width, 2, dtype=np.float64) / width
    frequency_r = rope.base**exponent_r
    if not extended(model):
        return frequency_r

    def pair_with(rotations: float) -> float:
        """Return the pair, as a real number, that rotates this often over the original context."""
        wavelength = rope.original_context / (rotations * 2 * math.pi)
        return width * math.log(wavelength) / (2 * math.log(rope.base))

    low = max(math.floor(pair_with(rope.beta_fast)), 0)
    high = min(math.ceil(pair_with(rope.beta_slow)), width - 1)
    ramp_r = (np.arange(width // 2) - low) / max(high - low, 1e-3)
    slow_r = np.clip(ramp_r, 0, 1)
    return frequency_r * ((1 - slow_r) + slow_r / rope.factor)


def mscale(factor: float, weight: float) -> float:
    """Return YaRN's attention temperature, 0.1 weight ln(factor) + 1."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def rope_gain(rope: RopeConfig) -> float:
    """Return what cos and sin are multiplied by: 1 in every released model, whose two mscales are
    equal.
    """
    own = mscale(rope.factor, rope.mscale)
    return own / mscale(rope.factor, rope.mscale_all)


def softmax_scale(model: ModelConfig, width: int) -> float:
    """Return width^-0.5, corrected by mscale_all squared if YaRN is on.

    `width` is that of a head's whole key: N + R in MLA.
    """
    scale = width**-0.5
    if extended(model):
        scale *= mscale(model.rope.factor, model.rope.mscale_all) ** 2
    return scale


def angles(model: ModelConfig, position_BT: Array) -> tuple[Array, Array]:
    """Return cos and sin of every pair at every position, [B, T, R/2] in float32."""
    frequency_r = rope_frequencies(model).astype(np.float32)
    angle_BTr = position_BT.astype(jnp.float32)[..., None] * frequency_r
    gain = rope_gain(model.rope) if extended(model) else 1.0
    return jnp.cos(angle_BTr) * gain, jnp.sin(angle_BTr) * gain


def rotate(x: Array, cos_BTr: Array, sin_BTr: Array) -> Array:
    """Rotate interleaved pairs (2i, 2i+1) of x [B, T, R] or [B, T, H, R] in float32."""
    if x.ndim == 4:
        cos_BTr = cos_BTr[:, :, None]
        sin_BTr = sin_BTr[:, :, None]

    pair = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pair[..., 0], pair[..., 1]
    turned_even = even * cos_BTr - odd * sin_BTr
    turned_odd = even * sin_BTr + odd * cos_BTr
    turned = jnp.stack([turned_even, turned_odd], -1)
    return turned.reshape(x.shape).astype(x.dtype)
