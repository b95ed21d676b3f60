"""The time of a step and the choice of a mesh, by hand."""

import importlib
from dataclasses import replace

import pytest

from configs.tiny import config as tiny
from seekjax.plan.chips import CHIPS, Chip
from seekjax.plan.counts import training_flops
from seekjax.plan.layout import lay_out
from seekjax.plan.memory import memory
from seekjax.plan.meshes import USABLE, assess, choices, meshes, micro_batches
from seekjax.plan.traffic import exchange, spread, transfers
from sharding.mesh_config import MeshConfig
from sharding.parts import Span

ROUND = Chip("round", memory=1e12, bandwidth=1e12, float32=1e12, node=4, inside=1e9, between=1e8)


def test_compute_is_flops_over_the_peak():
    config = replace(tiny, kernel=replace(tiny.kernel, remat="none"))
    time = assess(lay_out(config, MeshConfig(2).sizes(2)), ROUND).time
    tokens = config.train.batch * config.data.sequence
    assert time.compute == pytest.approx(
        tokens * training_flops(config.model, config.data.sequence) / 2 / 1e12
    )
    assert time.serial == pytest.approx(max(time.compute, time.memory) + time.inside)
    assert time.between == 0


@pytest.mark.parametrize(
    ("joined", "node", "inside", "between"),
    [
        (Span(1, 1), 8, 0, 0),
        (Span(8, 1), 8, 7 / 8, 0),
        # two nodes of four: half of the bytes are elsewhere, and each of four fetches its part
        (Span(8, 1), 4, 3 / 4, 1 / 2 / 4),
        # far apart: each device has a node of its own
        (Span(4, 8), 8, 0, 3 / 4),
    ],
)
def test_a_gather_crosses_between_nodes_once(joined, node, inside, between):
    assert spread(1.0, joined, node) == pytest.approx((inside, between))


def test_the_exchange_by_hand():
    """Eight devices share the experts, four in a node; 1/8 of the choices stay on the device."""
    layout = lay_out(
        replace(tiny, train=replace(tiny.train, batch=8)),
        MeshConfig(data=1, fsdp=1, expert=8).sizes(8),
    )
    sent = exchange(layout, 4)
    # There, back, both for the gradients, and there once more for what was not kept
    visits = 5 * (3 + 1)  # of three expert layers and a prediction module
    rows = layout.tokens * 4 * tiny.model.embed * 4 * visits
    assert sent.inside == pytest.approx(rows * 3 / 8)
    assert sent.between == pytest.approx(rows * 4 / 8)
    assert sum(each.bytes for each in transfers(layout, 4)) > sent.bytes


def test_the_choice_is_the_fastest_that_fits():
    config = importlib.import_module("configs.v2_lite").config
    chip = CHIPS["h100"]
    found = choices(config, chip, 8)
    slowest = found[0].time.serial
    for mesh in meshes(config, 8, chip.node):
        for layout in micro_batches(config, mesh):
            if memory(layout).total <= USABLE * chip.memory:
                assert assess(layout, chip).time.serial >= slowest * 0.999
    assert all(choice.memory.total <= USABLE * chip.memory for choice in found)
    assert all(choice.layout.devices == 8 for choice in found)
