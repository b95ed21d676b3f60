"""Tests run on eight emulated CPU devices, with deprecations as errors; set before anything imports jax."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""),
                                    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300",
                                    "--xla_cpu_collective_call_terminate_timeout_seconds=600")).strip()
