"""The peak that "% of peak" refers to is one of the machine, on however many emulated devices."""

from types import SimpleNamespace

import jax
import pytest

from seekjax.train import hardware


@pytest.mark.parametrize("devices", [1, 8])
def test_the_peak_is_that_of_the_machine(devices, monkeypatch):
    """On one core, which every device waits for: it finishes one floating-point operation in a
    nanosecond, so that is the peak."""
    clock = [0.0]

    def multiply(side):
        clock[0] += 2 * side**3 / 1e9
        return side

    def normal(key, shape, dtype):
        return shape[0]

    fake = SimpleNamespace(
        default_backend=lambda: "cpu",
        local_devices=lambda: list(range(devices)),
        device_count=lambda: devices,
        device_put=lambda x, device: x,
        block_until_ready=lambda x: x,
        jit=lambda function: lambda x, y: multiply(x),
        random=SimpleNamespace(normal=normal, key=jax.random.key),
        Array=jax.Array,
    )
    monkeypatch.setattr(hardware, "jax", fake)
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: clock[0])
    assert hardware.matmul_peak.__wrapped__("float32") == pytest.approx(1e9)
