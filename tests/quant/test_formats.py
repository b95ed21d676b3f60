"""int8, int4 and fp8: what a weight becomes, how far it is from itself, and its products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.axes import contracted
from seekjax.quant.formats import block, pack, product, quantise, unpack

KINDS = ("int8", "int4", "fp8")


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize(
    ("axes", "sums"),
    [
        ("embed hidden", (-2,)),
        ("layers embed heads nope", (-3,)),
        ("layers heads value embed", (-3, -2)),
        ("experts embed expert_hidden", (-2,)),
        ("layers experts expert_hidden embed", (-2,)),
        ("kv_latent heads nope", (-3,)),
    ],
)
def test_what_a_weight_sums_over(axes, sums):
    assert contracted(axes) == sums


def test_two_values_share_a_byte_and_come_back():
    x = jnp.asarray(np.random.default_rng(0).integers(-8, 8, (3, 6, 5)), jnp.int8)
    for axis in (-1, -2, 1, 2):
        if x.shape[axis] % 2 == 0:
            packed = pack(x, axis)
            assert packed.size == x.size // 2
            np.testing.assert_array_equal(unpack(packed, axis), x)


@pytest.mark.parametrize(
    ("size", "even", "length"),
    [
        (7168, False, 128),
        (576, False, 96),
        (64, True, 64),
        (1408, True, 128),
        (10, True, 10),
        (11, False, 11),
    ],
)
def test_groups_divide_their_axis(size, even, length):
    assert block(size, even) == length


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nearest_values(kind):
    w = drawn(2, 256, 192) * jnp.exp(2 * drawn(2, 1, 192, seed=1))
    q = quantise(w, kind, (-2,))
    assert q.shape == w.shape
    assert q[1].shape == w.shape[1:]
    error = jnp.abs(q.dense() - w)
    if kind == "int8":
        assert q.scale.shape == (2, 1, 192)
        assert (error <= q.scale * 0.5001).all()
    elif kind == "int4":
        assert q.scale.shape == (2, 2, 192)
        assert q.values.shape == (2, 128, 192)
        assert q.values.dtype == jnp.uint8
        assert jnp.sqrt((error**2).sum() / (w**2).sum()) < 0.115
    else:
        assert q.scale.shape == (2, 2, 2)
        assert q.values.dtype == jnp.float8_e4m3fn
        tile = jnp.repeat(jnp.repeat(q.scale, 128, 1), 96, 2)
        assert (error <= jnp.maximum(jnp.abs(w) * 2.0**-4, tile * 2.0**-10) * 1.0001).all()
    np.testing.assert_allclose(
        q.nbytes / (4 * w.size), {"int8": 0.254, "int4": 0.133, "fp8": 0.25}[kind], atol=0.003
    )
    np.testing.assert_array_equal(quantise(jnp.zeros((4, 6)), kind, (-2,)).dense(), 0)


def test_the_search_beats_the_plain_range():
    w = drawn(256, 64)
    plain = jnp.abs(w.reshape(2, 128, 64)).max(1, keepdims=True) / 7
    rounded = (jnp.clip(jnp.round(w.reshape(2, 128, 64) / plain), -8, 7) * plain).reshape(w.shape)
    assert (
        jnp.square(quantise(w, "int4", (-2,)).dense() - w).sum()
        < 0.9 * jnp.square(rounded - w).sum()
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 5, 130])
def test_products_are_those_of_the_weight_it_stands_for(kind, rows):
    x_mHU, w_HUD = drawn(rows, 3, 16), drawn(3, 16, 20, seed=1)
    q = quantise(w_HUD, kind, (-3, -2))
    wanted = np.tensordot(x_mHU, q.dense(), 2)
    slack = (
        np.abs(x_mHU).max((1, 2)) / 254 * np.abs(q.dense()).sum((0, 1)).max()
        if kind == "int8" and rows < 129
        else np.zeros(rows)
    )
    assert (np.abs(product(x_mHU, q) - wanted) <= slack[:, None] + 1e-4).all()
    two = quantise(w_HUD[0], kind, (-2,))
    np.testing.assert_allclose(
        jax.jit(lambda x, w: x @ w)(x_mHU[:, 0], two),
        x_mHU[:, 0] @ two.dense(),
        atol=0.3 if kind == "int8" else 1e-4,
    )
