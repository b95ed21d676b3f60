"""The head's cross entropy: the chunked form and the sum equal the plain one, values and gradients,
alone and with a sharded vocabulary."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from seekjax.kernels.cross_entropy import nll_chunked, nll_plain, nll_sum

CASES = [(50, 16, 100, 32, 13), (20, 8, 97, 10, 64), (33, 16, 64, 100, 8)]  # M D V chunk rows
ROWS = P(("data", "expert"))


def draw(M, D, V):
    random = np.random.default_rng(M + V)
    x_MD, w_DV, scale_M = (
        random.normal(size=shape).astype(np.float32) for shape in ((M, D), (D, V), (M,))
    )
    return x_MD, w_DV, random.integers(0, V, M, np.int32), scale_M


@partial(jax.jit, static_argnums=0)  # by form and shape, so that tests share what they compile
def _pulled(nll, x_MD, w_DV, target_M, dnll_M):
    nll_M, pull = jax.vjp(lambda *a: nll(*a, target_M), x_MD, w_DV)
    return nll_M, *pull(dnll_M)


def value_and_gradients(nll, x_MD, w_DV, target_M, dnll_M):
    return [np.asarray(a, np.float32) for a in _pulled(nll, x_MD, w_DV, target_M, dnll_M)]


def sum_and_gradients(total, x_MD, w_DV):
    value, gradients = jax.jit(jax.value_and_grad(lambda *a: 3 * total(*a), argnums=(0, 1)))(
        x_MD, w_DV
    )
    return [np.asarray(a, np.float32) for a in (value, *gradients)]


def close(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("M", "D", "V", "chunk", "rows"), CASES)
def test_chunked_equals_plain(M, D, V, chunk, rows):
    x_MD, w_DV, target_M, dnll_M = draw(M, D, V)
    got = value_and_gradients(
        partial(nll_chunked, chunk=chunk, rows=rows), x_MD, w_DV, target_M, dnll_M
    )
    close(got, value_and_gradients(nll_plain, x_MD, w_DV, target_M, dnll_M))


@pytest.mark.parametrize(("M", "D", "V", "chunk", "rows"), CASES)
def test_sum_equals_plain(M, D, V, chunk, rows):
    x_MD, w_DV, target_M, weight_M = draw(M, D, V)
    got = sum_and_gradients(lambda *a: nll_sum(*a, target_M, weight_M, rows=rows), x_MD, w_DV)
    close(got, sum_and_gradients(lambda *a: (weight_M * nll_plain(*a, target_M)).sum(), x_MD, w_DV))
    # Without a gradient another branch runs.
    np.testing.assert_allclose(
        3 * nll_sum(x_MD, w_DV, target_M, weight_M, rows=rows), got[0], rtol=1e-5
    )


def test_bf16():
    x_MD, w_DV, target_M, dnll_M = draw(64, 32, 200)
    expected = value_and_gradients(nll_plain, x_MD, w_DV, target_M, dnll_M)
    x_MD, w_DV = (jnp.asarray(a, jnp.bfloat16) for a in (x_MD, w_DV))
    chunked = value_and_gradients(
        partial(nll_chunked, chunk=64, rows=16), x_MD, w_DV, target_M, dnll_M
    )
    summed = sum_and_gradients(lambda *a: nll_sum(*a, target_M, dnll_M, rows=16), x_MD, w_DV)
    assert nll_chunked(x_MD, w_DV, target_M).dtype == jnp.float32
    for a, b in [
        *zip(chunked, expected),
        (summed[1] / 3, expected[1]),
        (summed[2] / 3, expected[2]),
    ]:
        assert np.linalg.norm(a - b) <= 0.02 * np.linalg.norm(b)


def test_any_offset_of_the_logits_cancels():
    x_MD, w_DV, target_M, _ = draw(30, 8, 50)
    one_M1, high_1V = np.ones((30, 1), np.float32), np.full((1, 50), 1e4, np.float32)
    shifted = nll_chunked(
        np.concatenate([x_MD, one_M1], 1),
        np.concatenate([w_DV, high_1V]),
        target_M,
        chunk=16,
    )
    np.testing.assert_allclose(shifted, nll_plain(x_MD, w_DV, target_M), atol=1e-2)


@pytest.mark.parametrize("nll", [nll_plain, partial(nll_chunked, chunk=20, rows=5)])
def test_sharded_vocabulary(nll):
    mesh = jax.make_mesh((2, 2, 2), ("data", "expert", "tensor"), axis_types=(AxisType.Auto,) * 3)
    x_MD, w_DV, target_M, dnll_M = draw(64, 16, 96)
    sharded = jax.shard_map(
        partial(nll, axes=("tensor",)),
        mesh=mesh,
        in_specs=(ROWS, P(None, "tensor"), ROWS),
        out_specs=ROWS,
    )
    close(
        value_and_gradients(sharded, x_MD, w_DV, target_M, dnll_M),
        value_and_gradients(nll_plain, x_MD, w_DV, target_M, dnll_M),
    )


@pytest.mark.parametrize("axes", [("tensor",), ("expert", "tensor")])
def test_sum_with_sharded_vocabulary(axes):
    mesh = jax.make_mesh((2, 2, 2), ("data", "expert", "tensor"), axis_types=(AxisType.Auto,) * 3)
    x_MD, w_DV, target_M, weight_M = draw(64, 16, 96)
    rows = P(tuple(name for name in ("data", "expert") if name not in axes))
    sharded = jax.shard_map(
        lambda *a: lax.psum(nll_sum(*a, axes=axes, rows=5), rows[0]),
        mesh=mesh,
        in_specs=(rows, P(None, axes), rows, rows),
        out_specs=P(),
    )
    got = sum_and_gradients(lambda *a: sharded(*a, target_M, weight_M), x_MD, w_DV)
    close(got, sum_and_gradients(lambda *a: (weight_M * nll_plain(*a, target_M)).sum(), x_MD, w_DV))


@pytest.mark.parametrize("form", ["chunked", "sum"])
def test_never_holds_all_logits(form):
    M, V = 4096, 4096
    x_MD, w_DV, target_M, weight_M = draw(M, 8, V)
    total = {
        "chunked": lambda *a: nll_chunked(*a, target_M).sum(),
        "sum": lambda *a: nll_sum(*a, target_M, weight_M),
    }[form]
    compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(x_MD, w_DV).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < M * V * 4 / 2
