"""Tests run on eight emulated CPU devices, with deprecations as errors; set before jax starts."""

import atexit
import ctypes
import gc
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

FLAGS = [
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    # Tiny arrays and many programs: the suite's time is compilation, and this halves it.
    "--xla_backend_optimization_level=0",
]
if version("jax") < "0.11":  # later versions have no slow emitters to turn off
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()

# Tracing makes many objects that live, and the collector looks at all of them.
gc.set_threshold(50_000)

# The workers of one session share what they compile, and nothing outlives it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402

from tests.fixtures import chats, command, tiny  # noqa: E402

__all__ = ["chats", "command", "tiny"]

MOST_BYTES = 1_200_000_000  # of a worker's memory, above which compiled programs are dropped


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory():
    """Drop compiled programs after a file of tests if the worker has grown.

    Later files find theirs in the session's cache on disk.
    """
    yield
    if resident_bytes() > MOST_BYTES:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Return the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
