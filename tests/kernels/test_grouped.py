"""Grouped expert feed-forward: every form equals the plain loop, values and gradients, alone and
under shard_map."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from seekjax.kernels import grouped
from seekjax.quant.formats import quantise

FORMS = [grouped.experts_ragged, grouped.experts_block]
# rows of each expert, out of 700: empty experts, exact tiles, one row more, rows left over, nothing
# at all
CASES = {
    "uneven": (0, 300, 129, 200),
    "exact": (256, 128, 0, 316),
    "one over": (257, 129, 1, 1),
    "nothing": (0, 0, 0, 0),
}


def draw(M, E, D=24, F=40):
    random = np.random.default_rng(M + E)
    shapes = ((M, D), (M,), (E, D, F), (E, D, F), (E, F, D), (M, D))
    *inputs, dy_MD = (
        random.normal(size=shape).astype(np.float32) / (1 if len(shape) == 1 else 4)
        for shape in shapes
    )
    return inputs, dy_MD


@partial(jax.jit, static_argnums=0)
def _pulled(experts, inputs, size_E, dy_MD):
    y_MD, pull = jax.vjp(lambda *inputs: experts(*inputs, size_E), *inputs)
    return y_MD, *pull(dy_MD)


def value_and_gradients(experts, inputs, size_E, dy_MD):
    return [np.asarray(a, np.float32) for a in _pulled(experts, tuple(inputs), size_E, dy_MD)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("experts", FORMS)
def test_equals_the_loop(experts, case):
    inputs, dy_MD = draw(700, 4)
    size_E = jnp.array(CASES[case], jnp.int32)
    expected = value_and_gradients(grouped.experts_loop, inputs, size_E, dy_MD)
    got = value_and_gradients(experts, inputs, size_E, dy_MD)
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_fewer_rows_than_a_tile():
    inputs, dy_MD = draw(40, 3)
    size_E = jnp.array((10, 0, 30), jnp.int32)
    expected = value_and_gradients(grouped.experts_loop, inputs, size_E, dy_MD)
    for a, b in zip(value_and_gradients(grouped.experts_block, inputs, size_E, dy_MD), expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("experts", [grouped.experts_loop, *FORMS])
def test_every_form_takes_quantised_weights_as_what_they_stand_for(experts):
    (x_MD, mix_M, *weights), _ = draw(40, 3)
    size_E = jnp.array((10, 0, 30), jnp.int32)
    small = [quantise(w, "int4", (-2,)) for w in weights]
    expected_MD = grouped.experts_loop(x_MD, mix_M, *(w.dense() for w in small), size_E)
    np.testing.assert_allclose(
        jax.jit(experts)(x_MD, mix_M, *small, size_E), expected_MD, rtol=1e-5, atol=1e-5
    )


def test_bf16():
    inputs, dy_MD = draw(700, 4)
    size_E = jnp.array(CASES["uneven"], jnp.int32)
    expected = value_and_gradients(grouped.experts_loop, inputs, size_E, dy_MD)
    got = value_and_gradients(
        grouped.experts_block,
        [a if a.ndim == 1 else a.astype(jnp.bfloat16) for a in inputs],
        size_E,
        dy_MD.astype(jnp.bfloat16),
    )
    for a, b in zip(got, expected):
        assert np.linalg.norm(a - b) <= 0.02 * np.linalg.norm(b)


@pytest.mark.parametrize("experts", [grouped.experts_loop, *FORMS])
def test_rows_of_no_expert_neither_give_nor_take(experts):
    (x_MD, *rest), dy_MD = draw(700, 4)
    size_E = jnp.array((100, 0, 150, 20), jnp.int32)
    noisy_MD = np.concatenate([x_MD[:270], np.full_like(x_MD[270:], 1e6)])
    results = [
        value_and_gradients(experts, (a_MD, *rest), size_E, dy_MD) for a_MD in (x_MD, noisy_MD)
    ]
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)
    y_MD, dx_MD, dmix_M, *_ = results[0]
    assert not y_MD[270:].any()
    assert not dx_MD[270:].any()
    assert not dmix_M[270:].any()


def one_by_one(x_MD, mix_M, *weights_and_size):
    """What eight devices compute, in two rows of four that share out the experts."""
    *weights, size_dE = weights_and_size
    parts = []
    for d in range(8):
        rows, first = slice(64 * d, 64 * (d + 1)), 2 * (d % 4)
        own = [w[first : first + 2] for w in weights]
        parts.append(grouped.experts_loop(x_MD[rows], mix_M[rows], *own, size_dE[d]))
    return jnp.concatenate(parts)


@pytest.mark.slow
@pytest.mark.parametrize("experts", [grouped.experts_loop, *FORMS])
def test_under_shard_map(experts):
    """Rows differ over both axes, experts over one: the weight gradient of an expert is the sum
    over the other."""
    mesh = jax.make_mesh((2, 4), ("data", "expert"), axis_types=(AxisType.Auto,) * 2)
    inputs, dy_MD = draw(8 * 64, 8)
    size_dE = jnp.array([(30 - d, 20 + d) for d in range(8)], jnp.int32)
    both = P(("data", "expert"))
    sharded = jax.shard_map(
        lambda *inputs: experts(*inputs[:5], inputs[5][0]),
        mesh=mesh,
        in_specs=(both, both, *(P("expert"),) * 3, both),
        out_specs=both,
    )

    expected = value_and_gradients(one_by_one, inputs, size_dE, dy_MD)
    got = value_and_gradients(sharded, inputs, size_dE, dy_MD)
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_permuting_experts_changes_nothing():
    (x_MD, mix_M, *weights), _ = draw(700, 4)
    sizes, order = np.array((400, 150, 50, 100)), np.array((2, 0, 3, 1))
    starts = np.cumsum(sizes) - sizes
    rows = np.concatenate([np.arange(starts[e], starts[e] + sizes[e]) for e in order])
    experts = jax.jit(grouped.experts_block)
    y_MD = experts(x_MD, mix_M, *weights, np.int32(sizes))
    own = [w[order] for w in weights]
    shuffled_MD = experts(x_MD[rows], mix_M[rows], *own, np.int32(sizes[order]))
    np.testing.assert_allclose(shuffled_MD, y_MD[rows], rtol=1e-5, atol=1e-6)


def test_pick():
    assert grouped.pick("cpu") is grouped.experts_block
    assert grouped.pick("tpu") is grouped.pick("gpu") is grouped.experts_ragged
