"""Where every array of the published runs lives, as text: a change of a rule or of a weight shows
in the diff of tests/sharding/golden.

Regenerate with `SEEKJAX_REGENERATE=1 pytest tests/sharding/test_places.py`, then read the diff.
"""

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.commands.show import table
from seekjax.placement import use_mesh
from seekjax.train.state import RunSpec
from seekjax.train.step import BATCH, compile_steps
from sharding import show
from sharding.mesh import MeshConfig, abstract_mesh
from sharding.rules import sharding

ROOT, GOLDEN = Path(__file__).parents[2], Path(__file__).parent / "golden"
PLACES = {
    "tiny_data2_fsdp2_expert2": ("tiny", MeshConfig(data=2, fsdp=2, expert=2)),
    "tiny_all": ("tiny", MeshConfig(data=2, fsdp=2, expert=2, tensor=2)),
    "v2_lite_fsdp8_expert8": ("v2_lite", MeshConfig(fsdp=8, expert=8, data=1)),
    "v3_fsdp8_expert64": ("v3", MeshConfig(data=1, fsdp=8, expert=64)),
    "v3_fsdp8_expert64_tensor4": ("v3", MeshConfig(data=1, fsdp=8, expert=64, tensor=4)),
}
places = pytest.mark.parametrize("place", PLACES)


def config_at(place):
    name, mesh = PLACES[place]
    return replace(importlib.import_module(f"configs.{name}").config, mesh=mesh)


@places
def test_every_array_is_where_it_was(place):
    file, found = GOLDEN / f"{place}.txt", table(config_at(place)) + "\n"
    if os.environ.get("SEEKJAX_REGENERATE"):
        file.write_text(found)
    assert found == file.read_text()


@places
def test_no_large_array_is_held_twice(place):
    """An array of more than 1 % of the parameters is split by every mesh axis but data, whose
    devices are whole replicas by meaning."""
    config = config_at(place)
    with use_mesh(abstract_mesh(config.mesh, 1)) as mesh:
        plan = RunSpec(config)
        state, axes = plan.abstract_state(), plan.state_axes()
        rows = show.rows((state.params, state.opt_state), (axes.params, axes.opt_state))
        whole = sum(row.bytes for row in show.rows(state.params, axes.params))
    parts = mesh.size // mesh.shape["data"]
    large = [row for row in rows if row.bytes > whole / 100]
    assert large
    assert {row.path: row.bytes // row.bytes_per_device for row in large} == {
        row.path: parts for row in large
    }


@pytest.mark.slow
def test_v3_lowers_for_2048_chips():
    """The whole train step with the kernels a TPU would pick, from a host with neither chips nor
    memory."""
    config = config_at("v3_fsdp8_expert64_tensor4")
    config = replace(
        config,
        kernel=replace(config.kernel, attention="splash", experts="ragged", dispatch="ragged"),
    )
    train = config.train
    with use_mesh(abstract_mesh(config.mesh, 1)) as mesh:
        plan, tokens = (
            RunSpec(config),
            (train.batch // train.micro_batch, train.micro_batch, config.data.sequence + 1),
        )
        batch = dict.fromkeys(
            ("tokens", "segments"),
            jax.ShapeDtypeStruct(tokens, jnp.int32, sharding=sharding(BATCH)),
        )
        step = compile_steps(plan, np.zeros(config.model.vocab, np.int32))[0]
        text = step.trace(plan.abstract_state(), batch).lower(lowering_platforms=("tpu",)).as_text()
    assert mesh.size == 2048
    assert '"fsdp"=8, "expert"=64, "tensor"=4' in text
    assert all(name in text for name in ("ragged_all_to_all", "ragged_dot", "tpu_custom_call"))


COMPILE = """
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp

from configs.tiny import config
from seekjax.placement import use_mesh
from seekjax.train.state import RunSpec
from seekjax.train.step import BATCH, compile_steps
from sharding.axes import Role
from sharding.mesh import MeshConfig
from sharding.rules import constrain, sharding

ODD = (
    (Role.BATCH, ("data", "fsdp", "expert")),
    (Role.PARALLEL_WIDTH, ("expert", "data")),
    (Role.SHARDED_WIDTH, ("fsdp",)),
)


def odd(x):
    x = constrain(jnp.sin(x), "batch - -")
    return constrain(jnp.cos(x), "- heads embed")


with use_mesh(MeshConfig(data=2, fsdp=2, expert=2), ODD):
    jax.jit(odd).lower(jnp.zeros((8, 8, 8))).compile()
print("AND NOW TINY", file=sys.stderr, flush=True)

# Plain kernels are quick to compile, and the body of `local` has no layout to find.
config = replace(config, kernel=replace(config.kernel, attention="plain", experts="loop"))
with use_mesh(MeshConfig(data=2, fsdp=2, expert=2)):
    plan = RunSpec(config)
    shape = (1, 32, config.data.sequence + 1)
    batch = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding(BATCH))
    step = compile_steps(plan, jnp.zeros(config.model.vocab, jnp.int32))[0]
    step.lower(plan.abstract_state(), {"tokens": batch, "segments": batch}).compile()
"""


@pytest.mark.slow
def test_xla_finds_a_way_between_all_layouts():
    """No "involuntary full rematerialization", which two odd layouts do draw: the model never asks
    for one that XLA reaches only by gathering."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    control, tiny = done.stderr.split("AND NOW TINY")
    assert "Involuntary full rematerialization" in control
    assert "rematerialization" not in tiny.lower()
