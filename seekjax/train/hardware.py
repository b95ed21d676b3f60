"""What the devices of a run can do, measured."""

import time
from functools import cache

import jax
import jax.numpy as jnp

from seekjax.placement import without_mesh


@cache
def matmul_peak(dtype: str, seconds: float = 0.3) -> float:
    """Return the FLOP/s of large square products on all devices together, measured.

    "Share of peak" in the progress line refers to it.
    """
    cpu = jax.default_backend() == "cpu"
    devices = jax.local_devices() if cpu else jax.local_devices()[:1]
    size = 8192
    if cpu:
        size = 1024 if len(devices) == 1 else 512
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    multiply = jax.jit(jnp.dot)

    # Emulated devices share cores, and one of them may use only some: all multiply at once.
    def measure() -> float:
        operands = [jax.device_put(x, device) for device in devices]

        def products() -> list[jax.Array]:
            return jax.block_until_ready([multiply(x, x) for x in operands])

        products()
        best, start = float("inf"), time.perf_counter()
        while time.perf_counter() - start < seconds:
            before = time.perf_counter()
            products()
            best = min(best, time.perf_counter() - before)
        return best

    # The mesh in use may leave out some of these devices.
    return 2 * size**3 / without_mesh(measure) * jax.device_count()
