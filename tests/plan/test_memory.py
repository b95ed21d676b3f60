"""Memory and traffic against what `seekjax show` lists and what XLA compiled."""

import importlib
from dataclasses import replace

import pytest

from seekjax.model.count import flops_per_token, parameters
from seekjax.placement import use_mesh
from seekjax.plan.counts import published_flops
from seekjax.plan.layout import lay_out
from seekjax.plan.memory import POLICIES, memory
from seekjax.plan.traffic import copies_between, exchange, transfers
from seekjax.plan.weights import weights
from seekjax.train.state import RunSpec
from sharding.mesh import abstract_mesh
from sharding.mesh_config import MeshConfig
from sharding.show import rows

MESHES = [
    MeshConfig(data=1, fsdp=8, expert=8, tensor=1),
    MeshConfig(data=2, fsdp=2, expert=16, tensor=4),
    MeshConfig(data=1, fsdp=1, expert=1, tensor=1),
]
CONFIGS = ["v3", "moe_16b"]


def config_of(name):
    return importlib.import_module(f"configs.{name}").config


@pytest.fixture(scope="module", params=CONFIGS)
def run(request):
    return config_of(request.param)


def test_the_weights_are_those_that_are_counted(run):
    count = parameters(run.model)
    biases = count.router_bias + (
        run.model.experts * run.model.mtp_depth if count.router_bias else 0
    )
    numbers = [weight.numbers for weight in weights(run.model)]
    assert sum(numbers) == count.total + count.mtp - biases


def test_bytes_per_device_are_those_of_show(run):
    """Traced once for a model: what the arrays are does not depend on the mesh."""
    spec = RunSpec(run)
    for mesh in MESHES:
        needed = memory(lay_out(run, mesh.sizes(10**6)))
        with use_mesh(abstract_mesh(mesh, 1)):
            state, axes = spec.shape, spec.state_axes()
            params = [row.bytes_per_device for row in rows(state.params, axes.params)]
            listed = rows(state.opt_state, axes.opt_state)
        moments = [row.bytes_per_device for row in listed if row.axes]
        assert needed.weights == sum(params)
        assert needed.moments == sum(moments)


@pytest.mark.parametrize("name", ["v3", "v2", "v2_lite", "moe_16b", "tiny"])
def test_flops_are_those_of_the_model(name):
    config = config_of(name)
    counted = flops_per_token(config.model, config.data.sequence)
    assert published_flops(config.model, config.data.sequence) == pytest.approx(counted, rel=1e-6)


def test_a_policy_that_keeps_less_takes_less(run):
    layout = lay_out(run, MESHES[0].sizes(64))
    kept = [memory(layout, remat).kept for remat in POLICIES]
    assert kept == sorted(kept, reverse=True)


# What XLA planned for TPU v5p (tests/benchmarks/results/compile_tpu.md), temporaries in GiB, and
# the plan's share of it: an estimate, not a bound.
COMPILED = [
    ("v2_lite", MeshConfig(data=1, fsdp=8, expert=8, tensor=1), {}, {}, 69.5, 0.89),
    (
        "v3",
        MeshConfig(data=1, fsdp=8, expert=64, tensor=1),
        {"batch": 512},
        {"capacity": 2.0},
        37.8,
        0.78,
    ),
    ("v3", MeshConfig(data=1, fsdp=8, expert=64, tensor=1), {"batch": 512}, {}, 104.84, 1.0),
]


@pytest.mark.parametrize(("name", "mesh", "train", "kernel", "temporaries", "share"), COMPILED)
def test_temporaries_next_to_the_compiler(name, mesh, train, kernel, temporaries, share):
    config = config_of(name)
    if train:
        train = train | {"batch_start": 0, "batch_ramp": 0.0}
    config = replace(
        config,
        train=replace(config.train, **train),
        kernel=replace(config.kernel, **kernel),
    )
    needed = memory(lay_out(config, mesh.sizes(512)))
    ratio = (needed.total - needed.state) / 2**30 / temporaries
    assert ratio == pytest.approx(share, abs=0.05)


def test_expert_gathers_are_those_of_the_compiler():
    """compile_tpu.md, v2_lite: 60.3 GiB of expert weights gathered, 30.2 of gradients summed."""
    layout = lay_out(config_of("v2_lite"), MeshConfig(data=1, fsdp=8, expert=8, tensor=1).sizes(64))
    experts = [weight for weight in weights(layout.config.model) if "expert_hidden" in weight.axes]
    whole = [weight.numbers / weight.on(layout.axes).computed for weight in experts]
    gathered = layout.micro_batches * layout.element * sum(whole)
    assert 2 * gathered / 2**30 == pytest.approx(60.3, abs=0.1)
    assert gathered / 2**30 == pytest.approx(30.2, abs=0.1)


def test_copies_between_nodes():
    copies = copies_between(config_of("v3").model, 8)
    assert copies["flat"] == 7.0
    assert copies["de-duplicated"] == pytest.approx(4.63, abs=0.005)
    assert copies["node-limited"] == 3.5
    assert "node-limited" not in copies_between(config_of("v2_lite").model, 8)


def test_a_mesh_with_nodes_sends_tokens_in_two_hops():
    """V3 on eight nodes of eight: 3.5 copies cross instead of 7, and are passed on inside."""
    config = config_of("v3")
    sizes = MeshConfig(data=1, fsdp=8, node=8, expert=8).sizes(512)
    hops = exchange(lay_out(config, sizes), 8)
    static = replace(config, kernel=replace(config.kernel, dispatch="static"))
    flat = exchange(lay_out(static, sizes), 8)
    assert (hops.name, flat.name) == ("exchange tokens, in two hops", "exchange tokens, flat")
    assert hops.between == flat.between / 2
    # of the 7 rows that arrive from other nodes, 7/8 go on to another device
    assert hops.inside == pytest.approx(flat.inside * (7 / 8 + 7 * 7 / 8) / (7 / 8))


def test_one_device_sends_nothing():
    layout = lay_out(config_of("tiny"), MeshConfig(1).sizes(1))
    assert transfers(layout, 1) == []
