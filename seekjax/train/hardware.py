"""What the devices of a run can do, measured."""

import time

import jax
import jax.numpy as jnp


def matmul_peak(dtype: str, seconds: float = 0.3) -> float:
    """Return the FLOP/s of large square products on all devices together, measured.

    "Share of peak" in the progress line refers to it.
    """
    cpu = jax.default_backend() == "cpu"
    size = 1024 if cpu else 8192
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    multiply = jax.jit(jnp.dot)
    multiply(x, x).block_until_ready()

    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < seconds:
        before = time.perf_counter()
        multiply(x, x).block_until_ready()
        best = min(best, time.perf_counter() - before)

    # Emulated devices share the cores that one product already uses.
    devices = 1 if cpu else jax.device_count()
    return 2 * size**3 / best * devices
