"""The time of a step and the choice of a mesh, by hand."""

import importlib
from dataclasses import replace

import pytest

from configs.tiny import config as tiny
from seekjax.errors import ConfigError
from seekjax.plan.chips import CHIPS, Chip
from seekjax.plan.counts import training_flops
from seekjax.plan.layout import lay_out
from seekjax.plan.memory import memory
from seekjax.plan.meshes import USABLE, assess, choices, meshes, micro_batches
from seekjax.plan.traffic import exchange, gather_positions, spread, transfers
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
        (Span(((1, 1),)), 8, 0, 0),
        (Span(((8, 1),)), 8, 7 / 8, 0),
        # two nodes of four: half of the bytes are elsewhere, and each of four fetches its part
        (Span(((8, 1),)), 4, 3 / 4, 1 / 2 / 4),
        # far apart: each device has a node of its own
        (Span(((4, 8),)), 8, 0, 3 / 4),
        # two apart with two neighbours each
        (Span(((2, 8), (2, 1))), 8, 1 / 2, 1 / 2 / 2),
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


def test_what_attention_gathers_by_hand():
    """V3 at 32K on four devices: 576 numbers of each token that three others hold, in 61 layers and
    a prediction module; forward, again, and the gradients. And the same time per device is planned
    for a quarter of the tokens."""
    config = importlib.import_module("configs.v3").config
    model = replace(config.model, context=32768)
    train = replace(config.train, batch=1, micro_batch=1, batch_start=0)
    data = replace(config.data, sequence=32768)
    config = replace(config, model=model, train=train, data=data)
    layout = lay_out(config, MeshConfig(data=1, context=4).sizes(4))
    assert layout.tokens == 8192

    sent = gather_positions(layout, 8)
    assert sent.inside == 3 * 62 * 576 * 2 * 32768 * 3 / 4
    assert sent.between == 0
    alone = lay_out(config, MeshConfig(data=1).sizes(1))
    assert gather_positions(alone, 8).bytes == 0
    assert memory(layout).kept == memory(alone).kept / 4


def test_long_sequences_may_be_split():
    """Into parts of at least 4,096 positions; shorter ones are not."""
    chip = CHIPS["h100"]
    for sequence, most in ((4096, 1), (16384, 4)):
        longer = replace(tiny, data=replace(tiny.data, sequence=sequence))
        parts = {mesh["context"] for mesh in meshes(longer, 8, chip.node)}
        assert max(parts) == most
    with pytest.raises(ConfigError, match=r"data\.sequence is 100, which mesh\.context 8"):
        lay_out(
            replace(tiny, data=replace(tiny.data, sequence=100)), MeshConfig(context=8).sizes(8)
        )
