"""Compile options for tests that compile more than they compute: about half the time. Newer JAX has no slow fusion emitters to turn off."""

import jax

QUICK = {"xla_backend_optimization_level": 0} | ({"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {})
