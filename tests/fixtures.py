"""What many tests share: models and runs that are small enough for seconds."""

from dataclasses import replace

from seekjax.config import KernelConfig, ModelConfig

# Two layers of width 32 with eight experts; compiles in seconds, and has every part of V3.
TINY = ModelConfig(
    vocab=320,
    embed=32,
    layers=2,
    heads=2,
    q_latent=16,
    kv_latent=16,
    nope=8,
    rotary=8,
    value=8,
    hidden=64,
    expert_hidden=16,
    experts=8,
    experts_per_token=2,
    init_std=0.1,
)

# The plain form of every kernel.
PLAIN = KernelConfig(attention="plain", experts="loop", remat="none")


def tiny_model(**fields) -> ModelConfig:
    """The tiny model with some fields replaced."""
    return replace(TINY, **fields)
