"""Causal attention: every form equals the plain one, values and gradients, with and without segments, alone and under shard_map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P

from seekjax.kernels import attention

SHAPES = [(2, 64, 2, 8, 4, 6), (3, 150, 2, 16, 8, 24), (1, 7, 1, 4, 4, 4), (2, 130, 3, 12, 0, 12)]  # B T H N R U
SCALE = 0.3


def draw(B, T, H, N, R, U, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(T), 6)
    shapes = ((B, T, H, N), (B, T, H, R), (B, T, H, N), (B, T, R), (B, T, H, U), (B, T, H, U))
    *inputs, do_BTHU = (jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes))
    return inputs, do_BTHU


def documents(B, T):
    return jnp.sort(jax.random.randint(jax.random.key(9), (B, T), 0, 4), axis=1)


def value_and_gradients(attend, inputs, do_BTHU):
    def run(*inputs):
        o_BTHU, pull = jax.vjp(attend, *inputs)
        return o_BTHU, *pull(do_BTHU)

    return [np.asarray(a, np.float32) for a in jax.jit(run)(*inputs)]


@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("attend", [attention.attend_block, attention.attend_dot])
def test_equals_plain(attend, shape, segmented):
    inputs, do_BTHU = draw(*shape)
    segment_BT = documents(*shape[:2]) if segmented else None
    expected = value_and_gradients(lambda *a: attention.attend_plain(*a, SCALE, segment_BT), inputs, do_BTHU)
    got = value_and_gradients(lambda *a: attend(*a, SCALE, segment_BT), inputs, do_BTHU)
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def test_bf16():
    inputs, do_BTHU = draw(2, 150, 2, 16, 8, 24)
    expected = value_and_gradients(lambda *a: attention.attend_plain(*a, SCALE), inputs, do_BTHU)
    got = value_and_gradients(lambda *a: attention.attend_block(*a, SCALE), [a.astype(jnp.bfloat16) for a in inputs], do_BTHU.astype(jnp.bfloat16))
    for a, b in zip(got, expected):
        assert np.linalg.norm(a - b) <= 0.02 * np.linalg.norm(b)


def test_large_scores_stay_finite():
    inputs, do_BTHU = draw(1, 130, 2, 8, 4, 6)
    expected = value_and_gradients(lambda *a: attention.attend_plain(*a, 100.0), inputs, do_BTHU)
    got = value_and_gradients(lambda *a: attention.attend_block(*a, 100.0), inputs, do_BTHU)
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


@pytest.mark.parametrize("attend", [attention.attend_plain, attention.attend_block, attention.attend_dot])
def test_sees_only_its_own_past(attend):
    """The output at one position has no gradient with respect to later tokens or other segments."""
    inputs, _ = draw(1, 140, 2, 8, 4, 6)
    segment_BT = (jnp.arange(140) >= 70).astype(jnp.int32)[None]
    _, _, dk_BTHN, dk_BTR, dv_BTHU = jax.grad(lambda *a: attend(*a, SCALE, segment_BT)[0, 100].sum(), argnums=range(5))(*inputs)
    for gradient in (dk_BTHN, dk_BTR, dv_BTHU):
        seen_T = np.abs(np.asarray(gradient[0])).reshape(140, -1).sum(axis=1) > 0
        assert seen_T[70:101].all() and not seen_T[:70].any() and not seen_T[101:].any()


@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("attend", [attention.attend_plain, attention.attend_block, attention.attend_dot])
def test_under_shard_map(attend, segmented):
    """Heads over one axis, sequences over the other: the shared rotary key's gradient is summed over the heads' axis."""
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    inputs, do_BTHU = draw(8, 100, 4, 8, 4, 6)
    extra = (documents(8, 100),) if segmented else ()
    heads = P("data", None, "tensor")
    specs = (heads, heads, heads, P("data"), heads, *(P("data") for _ in extra))
    sharded = jax.shard_map(lambda *a: attend(*a[:5], SCALE, *a[5:]), mesh=mesh, in_specs=specs, out_specs=heads)
    expected = value_and_gradients(lambda *a: attention.attend_plain(*a, SCALE, *extra), inputs, do_BTHU)
    got = value_and_gradients(lambda *a: sharded(*a, *extra), inputs, do_BTHU)
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def test_block_memory_is_linear_in_length():
    """Twice the length takes about twice the temporary memory, not four times."""

    def temporary(T):
        inputs, do_BTHU = draw(1, T, 2, 8, 4, 8)
        run = jax.jit(lambda *a: jax.vjp(lambda *a: attention.attend_block(*a, SCALE), *a)[1](do_BTHU))
        return run.lower(*inputs).compile().memory_analysis().temp_size_in_bytes

    assert temporary(2048) <= 2.2 * temporary(1024)


def test_pick():
    assert attention.pick("cpu") is attention.attend_block
    assert attention.pick("gpu") is attention.attend_dot
    assert attention.pick("tpu") is attention.attend_splash
