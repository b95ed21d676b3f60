"""Rotary positions and their YaRN extension (V2 section 2.1.3 and 3.1.4; YaRN: 2309.00071)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import ModelConfig, RopeConfig


def extended(model: ModelConfig) -> bool:
    """YaRN applies, at every length, to a model meant for more positions than it was first trained
    on."""
    return model.context > model.rope.original_context and model.rope.factor > 1


def rope_frequencies(model: ModelConfig) -> np.ndarray:
    """Radians per position for each of the rotary / 2 pairs: base^(-2i/R), slow pairs divided by
    YaRN's factor."""
    rope, width = model.rope, model.rotary
    frequency_r = rope.base ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    if not extended(model):
        return frequency_r

    def pair_with(rotations: float) -> float:
        return (
            width
            * math.log(rope.original_context / (rotations * 2 * math.pi))
            / (2 * math.log(rope.base))
        )

    low, high = (
        max(math.floor(pair_with(rope.beta_fast)), 0),
        min(math.ceil(pair_with(rope.beta_slow)), width - 1),
    )
    slow_r = np.clip((np.arange(width // 2) - low) / max(high - low, 1e-3), 0, 1)
    return frequency_r * ((1 - slow_r) + slow_r / rope.factor)


def mscale(factor: float, weight: float) -> float:
    """YaRN's attention temperature 0.1 weight ln(factor) + 1."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def rope_gain(rope: RopeConfig) -> float:
    """What cos and sin are multiplied by: 1 in every released model, because both mscales are
    equal."""
    return mscale(rope.factor, rope.mscale) / mscale(rope.factor, rope.mscale_all)


def softmax_scale(model: ModelConfig) -> float:
    """(N + R)^-0.5, corrected by mscale_all squared where YaRN is on."""
    scale = (model.nope + model.rotary) ** -0.5
    return (
        scale * mscale(model.rope.factor, model.rope.mscale_all) ** 2 if extended(model) else scale
    )


def angles(model: ModelConfig, position_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cos and sin of every pair at every position, [B, T, R/2] in float32."""
    angle_BTr = position_BT.astype(jnp.float32)[..., None] * rope_frequencies(model).astype(
        np.float32
    )
    gain = rope_gain(model.rope) if extended(model) else 1.0
    return jnp.cos(angle_BTr) * gain, jnp.sin(angle_BTr) * gain


def rotate(x: jax.Array, cos_BTr: jax.Array, sin_BTr: jax.Array) -> jax.Array:
    """Rotate interleaved pairs (2i, 2i+1) of x [B, T, R] or [B, T, H, R] in float32."""
    if x.ndim == 4:
        cos_BTr, sin_BTr = cos_BTr[:, :, None], sin_BTr[:, :, None]
    pair = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pair[..., 0], pair[..., 1]
    turned = jnp.stack([even * cos_BTr - odd * sin_BTr, even * sin_BTr + odd * cos_BTr], -1)
    return turned.reshape(x.shape).astype(x.dtype)
