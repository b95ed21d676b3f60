"""Where every array of the published runs lives, as text: a change of a rule or of a weight shows
in the diff of tests/sharding/golden.

Regenerate with `SEEKJAX_REGENERATE=1 pytest tests/sharding/test_places.py`, then read the diff.
"""

import importlib
import os
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

GOLDEN = Path(__file__).parent / "golden"
PLACES = {
    "tiny_data2_fsdp2_expert2": ("tiny", MeshConfig(data=2, fsdp=2, expert=2)),
    "tiny_all": ("tiny", MeshConfig(data=2, fsdp=2, expert=2, tensor=2)),
    "tiny_fsdp2_context4": ("tiny", MeshConfig(data=1, fsdp=2, context=4)),
    "v2_lite_fsdp8_expert8": ("v2_lite", MeshConfig(fsdp=8, expert=8, data=1)),
    "v3_fsdp8_expert64": ("v3", MeshConfig(data=1, fsdp=8, expert=64)),
    "v3_fsdp8_node8_expert8_tensor4": (
        "v3",
        MeshConfig(data=1, fsdp=8, node=8, expert=8, tensor=4),
    ),
}
places = pytest.mark.parametrize("place", PLACES)


def config_at(place):
    name, mesh = PLACES[place]
    return replace(importlib.import_module(f"configs.{name}").config, mesh=mesh)


@pytest.mark.slow
@places
def test_every_array_is_where_it_was(place):
    file, found = GOLDEN / f"{place}.txt", table(config_at(place)) + "\n"
    if os.environ.get("SEEKJAX_REGENERATE"):
        file.write_text(found)
    assert found == file.read_text()


@pytest.mark.slow
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


@pytest.mark.long
@pytest.mark.slow
def test_v3_lowers_for_2048_chips():
    """The whole train step with the kernels a TPU would pick, from a host with neither chips nor
    memory."""
    config = config_at("v3_fsdp8_node8_expert8_tensor4")
    kernels = {"attention": "splash", "experts": "ragged", "dispatch": "two_hop_ragged"}
    config = replace(config, kernel=replace(config.kernel, **kernels))
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
    assert '"fsdp"=8, "node"=8, "expert"=8, "context"=1, "tensor"=4' in text
    assert all(name in text for name in ("ragged_all_to_all", "ragged_dot", "tpu_custom_call"))
