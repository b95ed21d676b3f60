"""What is read from a compiled program, and what --compile refuses before it compiles."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from seekjax.commands import compiled
from seekjax.commands.plan import plan
from seekjax.errors import UsageError
from seekjax.plan.program import collectives

ROWS, WIDTH, STEPS = 16, 32, 5


@pytest.mark.mesh
def test_collectives_are_counted_with_their_loops_unrolled():
    """Eight devices gather their rows in each round of a loop, and sum once after it."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def body(x_rD):
        def round_(total_rD, _):
            all_RD = jax.lax.all_gather(total_rD, "data", tiled=True)
            return total_rD + jnp.sin(all_RD).sum(0), None

        total_rD, _ = jax.lax.scan(round_, x_rD, length=STEPS)
        return jax.lax.psum(total_rD, "data")

    run = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=P("data"), out_specs=P()))
    program = run.lower(jnp.zeros((ROWS, WIDTH), jnp.float32)).compile()
    found = collectives(program.as_text())

    gathers, sums = found["all-gather"], found["all-reduce"]
    assert (gathers.written, gathers.runs) == (1, STEPS)
    assert gathers.bytes == STEPS * ROWS * WIDTH * 4
    assert (sums.written, sums.runs) == (1, 1)
    assert sums.bytes == ROWS // 8 * WIDTH * 4
    assert found["all-to-all"].written == 0


def test_a_ragged_exchange_and_a_start_are_read_from_text():
    """As the TPU compiler writes them: a start's result has its operand too, and a fusion is a
    reduce-scatter by its name."""
    text = """HloModule step

%all-reduce-scatter.1 (p: bf16[64,8]) -> bf16[8,8] {
  %all-reduce = bf16[64,8]{1,0} all-reduce(%p), to_apply=%add
}

ENTRY %main (x: bf16[4,8]) -> bf16[32,8] {
  %start = (bf16[4,8]{1,0}, bf16[32,8]{1,0}) all-gather-start(%x), dimensions={0}
  %rows = bf16[100,8]{1,0} ragged-all-to-all(%x, %o), replica_groups={{0,1}}
  %sum = bf16[8,8]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    found = collectives(text)
    assert found["all-gather"].bytes == 32 * 8 * 2
    assert found["ragged-all-to-all"].bytes == 100 * 8 * 2
    assert found["reduce-scatter"].bytes == 64 * 8 * 2
    assert found["all-reduce"].written == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("v2_lite --compile 4x4x4", "--compile needs a training on chips"),
        ("v2_lite --on v5p:64 --inference --compile 4x4x4", "--compile needs a training on chips"),
        ("v2_lite --on v5p:64 --compile 4x4", "4x4 has 16 chips and --on v5p:64 has 64"),
        ("v2_lite --on v5p:64 --compile cube", "cube is not a topology: give the sides"),
    ],
)
def test_bad_topologies_are_one_sentence(words, sentence):
    with pytest.raises(UsageError, match=sentence):
        plan(words.split())


COMPILE = ["v2_lite", "--on", "v5p:64", "--compile", "4x4x4"]


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--compile needs the package libtpu: pip install"):
        plan(COMPILE)


def test_chips_of_two_devices_are_refused(monkeypatch):
    """As libtpu has them of v4."""
    monkeypatch.setattr(compiled, "tpu_devices", lambda chip, torus: [None] * 128)
    with pytest.raises(UsageError, match="has 128 devices in 64 chips, and a plan counts one"):
        plan(COMPILE)
