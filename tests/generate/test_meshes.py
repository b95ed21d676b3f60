"""A mesh writes the tokens that one device writes: experts, heads, vocabulary and batch split, with
and without a draft."""

import jax
import numpy as np
import pytest

from seekjax.config import KernelConfig
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.model.replicas import with_replicas
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig
from sharding.replicate import place_experts
from sharding.rules import sharding

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.mesh]


@pytest.fixture(scope="module")
def made(make):
    """One layer of experts, and a prediction module with another."""
    return make(layers=1, dense_layers=0)


@pytest.fixture(scope="module")
def alone(made, prompts):
    generator = Generator(made.model, made.variables, KernelConfig(attention="plain"), draft=True)
    return {
        temperature: [row.ids for row in generator(prompts, sampling(temperature))]
        for temperature in (0, 0.9)
    }


def sampling(temperature) -> Sampling:
    return Sampling(max_new=16, temperature=temperature, top_p=0.95, seed=4)


@pytest.mark.parametrize(
    ("mesh", "kernel", "parts", "redundant"),
    [
        (MeshConfig(data=2, expert=2, tensor=2), KernelConfig(attention="plain"), 4, 0),
        (
            MeshConfig(data=1, node=2, expert=4),
            KernelConfig(attention="block", dispatch="two_hop", experts="block", capacity=0.5),
            8,
            8,
        ),
    ],
    ids=["data, expert and tensor", "nodes and redundant experts, sorted rows"],
)
def test_a_mesh_changes_no_token(made, prompts, alone, mesh, kernel, parts, redundant):
    with use_mesh(mesh):
        on_host = jax.device_get(made.variables)
        placed = jax.device_put(on_host, jax.tree.map(sharding, made.axes))
        if redundant:
            experts = made.model.experts
            loads = np.random.default_rng(0).uniform(1, 100, (2, experts))
            placements = [place_experts(load, experts + redundant, 8, nodes=2) for load in loads]
            placed = with_replicas(made.model, placed, placements)
        generator = Generator(made.model, placed, kernel, draft=True)
        w_gate = generator.variables["params"]["expert_layers_0"]["ffn"]["w_gate"]
        assert (
            w_gate.addressable_shards[0].data.size == w_gate.size // parts
        )  # apart, and yet where they were
        for temperature, ids in alone.items():
            assert [row.ids for row in generator(prompts, sampling(temperature))] == ids
