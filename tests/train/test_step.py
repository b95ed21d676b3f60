"""What the compiler of a train step is asked for on a CPU."""

import jax
import jax.numpy as jnp

from seekjax.placement import use_mesh
from seekjax.train.step import compiler_options
from sharding.mesh import MeshConfig


def test_a_level_in_the_flags_has_precedence(monkeypatch):
    with use_mesh(MeshConfig(data=1)):
        monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
        assert compiler_options() is None

        monkeypatch.setenv("XLA_FLAGS", "")
        options = compiler_options()
    assert options == {"xla_backend_optimization_level": 1}

    # the compiler knows it
    assert jax.jit(jnp.sin, compiler_options=options)(0.0) == 0
