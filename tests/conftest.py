"""Tests run on eight emulated CPU devices, with deprecations as errors; set before anything imports
jax."""

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version

FLAGS = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    # Tiny arrays and many programs: the suite's time is compilation, and this halves it. JAX 0.11
    # has no slow emitters to turn off.
    "--xla_backend_optimization_level=0",
    *(["--xla_cpu_use_fusion_emitters=false"] if version("jax") < "0.11" else []),
)

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS)).strip()

gc.set_threshold(
    50_000
)  # tracing makes many objects that live, and the collector looks at all of them

if (
    "JAX_COMPILATION_CACHE_DIR" not in os.environ
):  # tests of one session share what they compile, and nothing outlives it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
