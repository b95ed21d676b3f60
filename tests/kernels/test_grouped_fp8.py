"""Experts in FP8 equal the linear layer in FP8, expert by expert: values and all gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from seekjax.config import Fp8Config
from seekjax.kernels.fp8 import linear
from seekjax.kernels.grouped import mixed, silu
from seekjax.kernels.grouped_fp8 import experts_fp8, grouped_linear

D, F = 140, 130


def drawn(*shapes):
    random = np.random.default_rng(0)
    return [np.float32(random.standard_normal(shape)) for shape in shapes]


@partial(jax.jit, static_argnums=0)
def pulled(function, inputs, gradient):
    y, pull = jax.vjp(function, *inputs)
    return y, *pull(gradient)


def one_by_one(x_MK, w_EKN, sizes, fp8):
    """Each expert's slice of rows through the linear layer of `kernels.fp8`; zeros after them."""
    outputs, start = [], 0
    for e, size in enumerate(sizes):
        if size:
            (y_1MN,) = linear(x_MK[None, start : start + size], (w_EKN[e],), fp8)
            outputs.append(y_1MN[0])
        start += size
    return jnp.pad(jnp.concatenate(outputs), ((0, len(x_MK) - start), (0, 0)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gradients", "product"), [("tile", "scaled"), ("block", "scaled"), ("tile", "parts")]
)
def test_equals_the_linear_layer_expert_by_expert(gradients, product):
    """With rows for one more than a tile, for none, for several tiles, and rows of nobody."""
    sizes = (129, 0, 290, 40)
    x_MK, w_EKN, dy_MN = drawn((500, D), (4, D, F), (500, F))
    fast = Fp8Config(gradients=gradients, product=product)
    plain = Fp8Config(gradients=gradients, product="parts")

    def grouped(x_MK, w_EKN):
        return grouped_linear(x_MK, (w_EKN,), jnp.array(sizes), fast)[0]

    expected = pulled(partial(one_by_one, sizes=sizes, fp8=plain), (x_MK, w_EKN), dy_MN)
    for found, exact in zip(pulled(grouped, (x_MK, w_EKN), dy_MN), expected):
        np.testing.assert_allclose(found, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


@pytest.mark.slow
@pytest.mark.long
def test_under_shard_map():
    """Each device has its own rows; the weight gradient of an expert sums over its two devices.

    The rounding of the last product's input magnifies the last bit of what comes before: so the
    results agree in norm.
    """
    mesh = jax.make_mesh((2, 2), ("data", "expert"), axis_types=(AxisType.Auto,) * 2)
    shapes = (200, D), (200,), (4, D, F), (4, D, F), (4, F, D), (200, D)
    *inputs, dy_MD = drawn(*shapes)
    both = P(("data", "expert"))
    sizes, fp8 = (30, 15), Fp8Config()

    def body(*inputs):
        return experts_fp8(*inputs, jnp.array(sizes), fp8)

    sharded = jax.shard_map(
        body, mesh=mesh, in_specs=(both, both, *(P("expert"),) * 3), out_specs=both
    )

    def device_by_device(x_MD, mix_M, *weights):
        parts = []
        for device in range(4):
            rows, own = slice(50 * device, 50 * (device + 1)), 2 * (device % 2)
            w_gate, w_up, w_down = (w[own : own + 2] for w in weights)
            gate, up = (one_by_one(x_MD[rows], w, sizes, fp8) for w in (w_gate, w_up))
            hidden = mixed(silu(gate) * up, mix_M[rows])
            parts.append(one_by_one(hidden, w_down, sizes, fp8))
        return jnp.concatenate(parts)

    expected = pulled(device_by_device, inputs, dy_MD)
    for found, exact in zip(pulled(sharded, inputs, dy_MD), expected):
        assert np.linalg.norm(found - exact) <= 1e-3 * np.linalg.norm(exact)
