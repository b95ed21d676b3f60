"""Every exchange on every kind of mesh against the plain mixture: outputs, gradients, and what a
capacity drops.
"""

import sys
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.config import KernelConfig
from seekjax.errors import ConfigError
from seekjax.model.experts import EXCHANGES, check_exchange, mixture, pick_copies
from seekjax.model.routing import choose
from seekjax.placement import use_mesh
from seekjax.quant.wire import pack, unpack
from sharding.exchange import fastest
from sharding.exchange.dense import exchange_dense
from sharding.exchange.ragged import exchange_ragged
from sharding.exchange.static import exchange_static
from sharding.mesh import MeshConfig
from sharding.replicate import place_experts
from tests.fixtures import tiny_model

pytestmark = pytest.mark.mesh

B, T, D, F, E, K = 8, 6, 8, 16, 16, 3
MESHES = {
    "1": MeshConfig(data=1),
    "data 8": MeshConfig(data=8),
    "expert 8": MeshConfig(expert=8),
    "data 2 x expert 4": MeshConfig(data=2, expert=4),
    "node 8": MeshConfig(node=8),
    "node 2 x expert 4": MeshConfig(node=2, expert=4),
    "node 4 x expert 2": MeshConfig(node=4, expert=2),
    "data 2 x node 2 x expert 2": MeshConfig(data=2, node=2, expert=2),
    "data 2 x fsdp 2 x expert 2": MeshConfig(data=2, fsdp=2, expert=2),
    "data 2 x expert 2 x tensor 2": MeshConfig(data=2, expert=2, tensor=2),
}
FORMS = ("dense", "static", "ragged")
NODES = [mesh for mesh in MESHES if MESHES[mesh].node > 1]
SPLIT = [mesh for mesh in MESHES if MESHES[mesh].expert > 1 and mesh not in NODES] + [
    "node 2 x expert 4"
]
# Below are, with a capacity, `ragged` on "data 8", where it has no peers and is `static`, and
# `static` with "tensor 2"; an exchange from outside is `dense` on "data 2 x expert 4".
CASES = (
    [("static", mesh) for mesh in ("1", "data 8", *SPLIT) if MESHES[mesh].tensor == 1]
    + [("ragged", mesh) for mesh in SPLIT]
    + [("dense", mesh) for mesh in ("1", *SPLIT) if mesh != "data 2 x expert 4"]
    + [("two_hop", mesh) for mesh in (*NODES, "data 2 x expert 4")]
    + [("two_hop_ragged", "node 2 x expert 4")]
)


def plain_ragged_all_to_all(
    operand, output, input_offsets, send_sizes, output_offsets, recv_sizes, *, axis_name
):
    """`jax.lax.ragged_all_to_all` by its documentation, out of all_gather: XLA's CPU backend has
    none. NaN if the two ends disagree on a size."""
    me = jax.lax.axis_index(axis_name)
    operand_PND, from_PP, size_PP, to_PP = (
        jax.lax.all_gather(a, axis_name)
        for a in (operand, input_offsets, send_sizes, output_offsets)
    )
    from_P, size_P, to_P = from_PP[:, me], size_PP[:, me], to_PP[:, me]
    row_R1 = jnp.arange(output.shape[0])[:, None]
    hit_RP = (to_P <= row_R1) & (row_R1 < to_P + size_P)
    sender_R = hit_RP.argmax(1)
    got_RD = operand_PND[sender_R, from_P[sender_R] + row_R1[:, 0] - to_P[sender_R]]
    agree = (size_P == recv_sizes).all() & (hit_RP.sum(1) <= 1).all()
    return jnp.where(agree, jnp.where(hit_RP.any(1)[:, None], got_RD, output), jnp.nan)


@pytest.fixture(autouse=True)
def ragged_on_cpu(monkeypatch):
    monkeypatch.setattr(jax.lax, "ragged_all_to_all", plain_ragged_all_to_all)


def inputs(seed=0, skew=0.0):
    """x, gates, weights; and K distinct choices of each token, with a skew towards the first
    experts."""
    random = np.random.default_rng(seed)
    x, gate, *weights = (
        random.normal(size=shape).astype(np.float32)
        for shape in ((B, T, D), (B, T, K), (E, D, F), (E, D, F), (E, F, D))
    )
    choice = np.argsort(-random.normal(size=(B, T, E)) + skew * np.arange(E), -1)[..., :K].astype(
        np.int32
    )
    return x, choice, np.abs(gate) + 0.1, tuple(weights)


def plain(x_BTD, choice_BTK, gate_BTK, weights):
    """Every token through every expert."""
    w_gate_EDF, w_up_EDF, w_down_EFD = weights
    gate_BTEF, up_BTEF = (
        jnp.einsum("BTD,EDF->BTEF", x_BTD, w_EDF) for w_EDF in (w_gate_EDF, w_up_EDF)
    )
    y_BTED = jnp.einsum("BTEF,EFD->BTED", jax.nn.silu(gate_BTEF) * up_BTEF, w_down_EFD)
    mix_BTE = jnp.where(choice_BTK[..., None] == jnp.arange(E), gate_BTK[..., None], 0).sum(2)
    return jnp.einsum("BTED,BTE->BTD", y_BTED, mix_BTE)


PULL = np.cos(np.arange(B * T * D, dtype=np.float32)).reshape(B, T, D)


def with_gradients(function):
    """(y, dropped) and the gradients of a fixed scalar of y by x, gates and weights."""

    def total(x, gate, weights, choice):
        y, dropped = function(x, choice, gate, weights)
        return (y * PULL).sum(), (y, dropped)

    graded = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))

    def run(x, choice, gate, weights):
        (_, (y, dropped)), gradients = graded(x, gate, weights, choice)
        return y, dropped, *gradients

    return run


def close(got, expected, tolerance=2e-6):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max(), rtol=0)


reference = with_gradients(lambda *a: (plain(*a), 0))


@cache
def compiled(form, mesh, capacity=0.0, dtype="same"):
    """The mixture with a form of dispatch; to be called on the mesh that it is compiled for."""
    kernel = KernelConfig(dispatch=form, experts="loop", capacity=capacity, dispatch_dtype=dtype)
    return with_gradients(lambda *a: mixture(*a, kernel))


@pytest.mark.slow
@pytest.mark.parametrize(("form", "mesh"), CASES)
def test_every_form_on_every_mesh_is_the_plain_mixture(form, mesh):
    arrays = inputs()
    with use_mesh(MESHES[mesh]):
        got = compiled(form, mesh)(*arrays)
    close(got, reference(*arrays))


@pytest.mark.slow
@pytest.mark.parametrize(("form", "mesh"), [("static", "1"), ("two_hop", "node 2 x expert 4")])
def test_fp8_rounds_tokens_there_and_gradients_on_their_way_back(form, mesh):
    """Once each, however many hops and devices: the plain mixture of rounded tokens, whose gradient
    is that of a rounded gradient."""
    x, choice, gate, weights = inputs()
    with use_mesh(MESHES[mesh]):
        y, dropped, *gradients = compiled(form, mesh, 0.0, "fp8")(x, choice, gate, weights)

    rounded, pull = (np.asarray(unpack(pack(a.reshape(-1, D)), "float32")) for a in (x, PULL))
    assert 0 < np.abs(rounded - x.reshape(-1, D)).max() <= 2**-4 * np.abs(x).max()
    expected, transpose = jax.vjp(
        lambda x, gate, weights: plain(x, choice, gate, weights),
        rounded.reshape(x.shape),
        gate,
        weights,
    )
    assert dropped == 0
    close((y, gradients), (expected, list(transpose(pull.reshape(x.shape)))))


V3 = tiny_model(experts=E, experts_per_token=K, expert_groups=4, groups_per_token=2)
ROUTERS = {
    "V3": V3,
    "V2": replace(V3, group_score="max"),
    "ungrouped": replace(V3, expert_groups=1, groups_per_token=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", NODES)
@pytest.mark.parametrize("router", ROUTERS)
def test_two_hops_serve_every_router(router, mesh):
    """Tokens of few groups and of many; each node of "node 4 x expert 2" is one group."""
    x, _, gate, weights = inputs()
    score = jax.random.uniform(jax.random.key(0), (B, T, E))
    choice = choose(score, jnp.zeros(E), ROUTERS[router])
    with use_mesh(MESHES[mesh]):
        got = compiled("two_hop", mesh)(x, choice, gate, weights)
    close(got, reference(x, choice, gate, weights))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "mesh"),
    [
        ("static", "data 2 x expert 4"),
        ("ragged", "data 2 x expert 4"),
        ("two_hop", "node 2 x expert 4"),
        ("two_hop_ragged", "node 2 x expert 4"),
    ],
)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), skew=st.sampled_from([0.0, 0.3, -0.3, 100.0, -100.0]))
def test_any_imbalance(form, mesh, seed, skew):
    """Up to all tokens choosing the same experts of one device, which fills the worst-case buffer
    to the last row."""
    arrays = inputs(seed, skew)
    with use_mesh(MESHES[mesh]):
        y, dropped, *gradients = compiled(form, mesh)(*arrays)
    assert dropped == 0
    close((y, 0, *gradients), reference(*arrays))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_names_of_experts_change_nothing(form):
    x, choice, gate, weights = inputs()
    new = np.random.default_rng(1).permutation(E)  # expert e is now called new[e]
    renamed = tuple(w[np.argsort(new)] for w in weights)
    mesh = "data 2 x fsdp 2 x expert 2"
    with use_mesh(MESHES[mesh]):
        graded = compiled(form, mesh)
        *before, d_weights = graded(x, choice, gate, weights)
        *after, d_renamed = graded(x, new[choice].astype(np.int32), gate, renamed)
    close((after, tuple(w[new] for w in d_renamed)), (before, d_weights))


def test_copies_of_experts_change_nothing():
    """Tokens that visit the same expert take its copies in turn."""
    x, choice, gate, weights = inputs(skew=0.3)
    load = np.bincount(choice.reshape(-1), minlength=E)
    placement = place_experts(load, E + 8, devices=4)
    copied = tuple(w[placement.logical_P] for w in weights)

    kernel = KernelConfig(dispatch="dense", experts="loop")
    with use_mesh(MESHES["data 2 x expert 4"]):
        visited = pick_copies(choice, placement.physical_EC, placement.copies_E)
        y, _ = jax.jit(lambda *a: mixture(*a, kernel))(x, visited, gate, copied)
    close(y, reference(x, choice, gate, weights)[0])

    np.testing.assert_array_equal(placement.logical_P[visited], choice)
    visits = np.bincount(np.asarray(visited).reshape(-1), minlength=E + 8)
    assert visits.reshape(4, -1).sum(-1).max() < load.reshape(4, -1).sum(-1).max()


def kept(choice, gate, batch_parts, expert_parts, capacity):
    """V2 section 2.2.4 row by row: each device sends each expert shard its highest gates, up to so
    many balanced shares."""
    keep = np.zeros(choice.shape, bool)
    for own in np.split(np.arange(B), batch_parts):
        rows = sorted(
            ((b, t, k) for b in own for t in range(T) for k in range(K)), key=lambda row: -gate[row]
        )  # stable: ties go to the earlier row
        room = dict.fromkeys(
            range(expert_parts), max(1, round(capacity * len(rows) / expert_parts))
        )
        for row in rows:
            shard = choice[row] // (E // expert_parts)
            keep[row] = room[shard] > 0
            room[shard] -= 1
    return keep


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "mesh", "parts", "capacity", "skew", "ties"),
    [
        ("static", "data 2 x expert 4", (8, 4), 1.0, 0.3, False),
        ("static", "data 2 x expert 4", (8, 4), 1.0, 100.0, False),
        ("static", "data 2 x expert 4", (8, 4), 1.0, 0.0, True),
        ("ragged", "data 2 x expert 4", (8, 4), 0.25, 0.3, False),
        ("ragged", "data 2 x expert 4", (8, 4), 0.25, 100.0, False),
        ("ragged", "data 2 x expert 4", (8, 4), 0.25, 0.0, True),
        ("static", "data 2 x expert 2 x tensor 2", (4, 2), 0.8, -0.3, False),
        # Room for all rows, and one peer to whom nothing travels: nothing is dropped.
        ("static", "data 2 x expert 4", (8, 4), 16.0, 0.3, False),
        ("ragged", "data 8", (8, 1), 0.1, 0.0, False),
    ],
)
def test_a_capacity_drops_the_lowest_gates_and_counts_them(form, mesh, parts, capacity, skew, ties):
    x, choice, gate, weights = inputs(3, skew)
    if ties:
        gate = np.ceil(gate)
    keep = np.ones(choice.shape, bool)
    if parts[1] > 1:
        keep = kept(choice, gate, *parts, capacity)
    assert keep.all() == (parts[1] == 1 or capacity == 16)

    with use_mesh(MESHES[mesh]):
        found = compiled(form, mesh, capacity)(x, choice, gate, weights)
    y, dropped, dx, d_gate, d_weights = found
    assert dropped == (~keep).sum()
    expected = reference(x, choice, gate * keep, weights)
    close((y, dx, d_gate, d_weights), (expected[0], expected[2], expected[3] * keep, expected[4]))


@pytest.mark.slow
def test_a_capacity_bounds_the_second_hop():
    """The device that passes rows on keeps the highest gates of all nodes' tokens together; of
    equal ones the first."""
    x, choice, gate, weights = inputs(3, skew=0.1)
    gate, capacity = np.ceil(gate), 0.5

    # Batch row b lives in node b // 4 on device b % 4, and E // 8 experts on each device.
    room = round(capacity * T * K / 4)
    keep = np.zeros(choice.shape, bool)
    for own in range(4):
        for device in range(8):
            rows = [
                (b, t, k)
                for b in (own, 4 + own)
                for t in range(T)
                for k in range(K)
                if choice[b, t, k] // (E // 8) == device
            ]
            for row in sorted(rows, key=lambda row: -gate[row])[:room]:
                keep[row] = True
    assert not keep.all()

    mesh = "node 2 x expert 4"
    with use_mesh(MESHES[mesh]):
        y, dropped, dx, d_gate, d_weights = compiled("two_hop", mesh, capacity)(
            x, choice, gate, weights
        )
    assert dropped == (~keep).sum()
    expected = reference(x, choice, gate * keep, weights)
    close((y, dx, d_gate, d_weights), (expected[0], expected[2], expected[3] * keep, expected[4]))


def test_ragged_is_the_fastest_only_where_it_is_native_and_has_peers():
    assert fastest("tpu", 8) == "ragged"
    assert fastest("tpu", 1) == "static"
    assert fastest("cpu", 8) == "static"
    assert fastest("gpu", 8) == "static"


def test_between_nodes_two_hops_send_the_least():
    assert fastest("cpu", 8, nodes=2) == "two_hop"
    assert fastest("tpu", 8, nodes=8) == "two_hop_ragged"


def test_a_config_that_two_hops_do_not_fit_is_refused_before_compiling():
    model = tiny_model(experts=16, expert_groups=4)

    def check(nodes, dispatch="two_hop", **fields):
        check_exchange(replace(model, **fields), KernelConfig(dispatch=dispatch), nodes)

    with pytest.raises(
        ConfigError, match=r"needs nodes, and mesh\.node is 1: give .* --mesh\.node 2"
    ):
        check(1)
    with pytest.raises(
        ConfigError, match=r"model\.expert_groups is 4, .* make it a multiple of 8 or 1"
    ):
        check(8, dispatch="two_hop_ragged")
    dense = KernelConfig(dispatch="dense", dispatch_dtype="fp8")
    with pytest.raises(ConfigError, match="sends tokens only as they are, choose auto, static"):
        check_exchange(model, dense, nodes=1)
    check_exchange(model, KernelConfig(dispatch_dtype="fp8"), nodes=1)
    check(4)
    check(8, expert_groups=1, groups_per_token=1)  # no groups: a token may visit every node
    check(8, dispatch="static")
    check(1, dispatch="auto")


def test_each_name_finds_its_exchange():
    assert EXCHANGES.find("dense") is exchange_dense
    assert EXCHANGES.find("static") is exchange_static
    assert EXCHANGES.find("ragged") is exchange_ragged
    with pytest.raises(ConfigError, match="no expert exchange 'ragde': did you mean 'ragged'"):
        EXCHANGES.find("ragde")


CALLS = []


def own_exchange(x_mD, choice_mK, gate_mK, weights, experts, axes=(), capacity=0.0):
    CALLS.append(axes)
    return exchange_dense(x_mD, choice_mK, gate_mK, weights, experts, axes, capacity)


def test_an_exchange_from_outside_the_package(monkeypatch):
    """`kernel.dispatch` names it as module:function."""
    monkeypatch.setitem(sys.modules, "my_exchange", sys.modules[__name__])
    arrays = inputs()
    kernel = KernelConfig(dispatch="my_exchange:own_exchange", experts="loop")
    with use_mesh(MESHES["data 2 x expert 4"]):
        y, _ = jax.jit(lambda *a: mixture(*a, kernel))(*arrays)
    close(y, reference(*arrays)[0])
    assert CALLS == [("expert",)]
