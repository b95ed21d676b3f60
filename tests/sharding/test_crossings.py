"""How often a token crosses between eight nodes, counted in the running program, against theory."""

import math
from dataclasses import replace
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.model.routing import choose
from seekjax.plan.traffic import copies_between
from seekjax.quant.wire import FP8
from sharding.exchange.sorted_rows import exchange_sorted
from sharding.exchange.static import fixed_buffers
from sharding.exchange.two_hop import exchange_hops
from sharding.mesh import MeshConfig
from tests.fixtures import tiny_model
from tests.sharding.crossings import count

pytestmark = [pytest.mark.slow, pytest.mark.mesh]

# V3's router: 256 experts in eight groups, of which a token chooses four.
V3 = tiny_model(experts=256, experts_per_token=8, expert_groups=8, groups_per_token=4)
FREE = replace(V3, expert_groups=1, groups_per_token=1)
B, T, D = 8, 256, 16
E, K = V3.experts, V3.experts_per_token
NODES = MeshConfig(node=8)


@cache
def choices(kind):
    """Of random scores: without groups; V3's four best groups; or eight random experts of four
    random groups."""
    random = np.random.default_rng(0)
    score = random.uniform(0.1, 1, (B, T, E)).astype(np.float32)
    if kind == "four random groups":
        rank = random.permuted(np.tile(np.arange(8), (B, T, 1)), axis=-1)
        score *= np.repeat(rank < 4, E // 8, -1)
    model = FREE if kind == "free" else V3
    return np.asarray(choose(jnp.asarray(score), jnp.zeros(E), model))


@cache
def crossing(exchange, kind):
    x = np.random.default_rng(1).normal(size=(B, T, D)).astype(np.float32)
    return count(exchange, NODES, x, choices(kind), fixed_buffers, experts=E)


def visits(kind):
    """How many other nodes a token visits on average, in NumPy."""
    node_BTK = choices(kind) // (E // 8)
    own = np.arange(B)  # a sequence lives on each node
    others = [len(set(row) - {own[b]}) for b in range(B) for row in node_BTK[b].tolist()]
    return np.mean(others)


@pytest.mark.parametrize("kind", ["free", "V3", "four random groups"])
def test_a_token_crosses_once_to_each_node_that_it_visits(kind):
    assert crossing(exchange_hops, kind).rows == visits(kind)


def test_copies_between_eight_nodes_are_those_of_theory():
    theory = copies_between(V3, 8)
    assert round(theory["flat"], 2) == 7.00
    assert round(theory["de-duplicated"], 2) == 4.63
    assert theory["node-limited"] == 3.5

    assert crossing(exchange_sorted, "free").rows == pytest.approx(7.00, abs=0.05)
    assert crossing(exchange_hops, "free").rows == pytest.approx(4.63, abs=0.05)
    assert crossing(exchange_hops, "V3").rows <= 3.5

    # Of 128 open experts eight miss one of the four groups with this probability.
    missed = math.comb(96, 8) / math.comb(128, 8)
    random = 4 * (1 - missed) * 7 / 8
    assert round(random, 3) == 3.175
    assert crossing(exchange_hops, "four random groups").rows == pytest.approx(random, abs=0.05)


def test_fixed_buffers_send_one_row_per_token_and_node():
    """And the flat exchange one per choice, to each device: buffers are for the worst case."""
    flat = crossing(exchange_sorted, "free").buffers["f32", D]
    hops = crossing(exchange_hops, "free").buffers["f32", D]
    there_and_back = 2 * 7 * D * jnp.dtype(jnp.float32).itemsize
    assert hops == there_and_back
    assert flat == K * there_and_back


def test_fp8_takes_7392_bytes_where_bfloat16_takes_14336():
    """At V3's width, in the program's buffers: values in E4M3, and a scale for each 128 of them."""
    width = 7168
    x = np.random.default_rng(2).normal(size=(B, 1, width)).astype(jnp.bfloat16)
    choice = choices("V3")[:, :1]
    found = count(exchange_hops, NODES, x, choice, fixed_buffers, experts=E, wire=FP8)

    # Of each token 7 rows are sent, and 7 come back.
    per_row = {key: size / 7 for key, size in found.buffers.items()}
    assert per_row["f8E4M3FN", width] + per_row["f32", width // 128] == 7392
    assert per_row["bf16", width] == 14336
