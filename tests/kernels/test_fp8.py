"""A linear layer in FP8 equals the NumPy form of the paper: the output and both gradients."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.config import Fp8Config
from seekjax.kernels import fp8 as fp8_module
from seekjax.kernels.fp8 import in_bfloat16, linear
from seekjax.quant.tiles import BLOCK, COLUMN, ROW, in_tiles
from tests.reference import fp8 as reference

B, T, K, WIDTHS = 2, 150, 300, (140, 64)
PLAIN = Fp8Config(product="parts")
CASES = {
    "scaled": (Fp8Config(), "e4m3"),
    "parts": (PLAIN, "e4m3"),
    "ue8m0 parts": (replace(PLAIN, scales="ue8m0"), "e4m3"),
    "ue8m0 in bfloat16": (Fp8Config(scales="ue8m0", product="bfloat16"), "e4m3"),
    "ue8m0 scaled, e5m6": (Fp8Config(scales="ue8m0"), "e5m6"),
    "blocks of gradients": (Fp8Config(gradients="block"), "e4m3"),
}


@pytest.fixture(scope="module")
def arrays():
    """Inputs and gradients with a few outliers, as activations have them."""
    random = np.random.default_rng(0)

    def drawn(*shape):
        x = random.standard_normal(shape)
        return np.float32(x * np.where(random.random(shape) < 0.01, 100, 1))

    weights = tuple(drawn(K, N) / 16 for N in WIDTHS)
    gradients = tuple(drawn(B, T, N) / 1000 for N in WIDTHS)
    return drawn(B, T, K), weights, gradients


@partial(jax.jit, static_argnums=(0, 1))
def pulled(fp8, kept, x, weights, gradients):
    outputs, pull = jax.vjp(lambda x, weights: linear(x, weights, fp8, kept), x, weights)
    return outputs, *pull(gradients)


def assert_near(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(arrays, case):
    fp8, kept = CASES[case]
    x, weights, gradients = arrays
    outputs, dx, weight_gradients = pulled(fp8, kept, *arrays)

    expected_dx = 0
    for n, (w, dy) in enumerate(zip(weights, gradients)):
        each = [
            reference.linear(
                x[b], w, dy[b], fp8.scales == "ue8m0", kept == "e5m6", fp8.gradients == "block"
            )
            for b in range(B)
        ]
        y, part_dx, dw = zip(*each)
        assert_near(outputs[n], np.stack(y))
        assert_near(weight_gradients[n], sum(dw))
        expected_dx = expected_dx + np.stack(part_dx)
    assert_near(dx, expected_dx)


def test_bfloat16_holds_every_number_whose_scale_is_a_power_of_two(arrays):
    """So an accelerator multiplies in bfloat16 what a CPU multiplies in float32."""
    x, (w, _), _ = arrays
    for array, tile in ((x * np.float32(1e20), ROW), (x * np.float32(1e-20), COLUMN), (w, BLOCK)):
        tiled = in_tiles(array, tile, "ue8m0")
        np.testing.assert_array_equal(in_bfloat16(tiled).astype(np.float32), tiled.dense())
    assert (in_bfloat16(in_tiles(w, BLOCK)) != in_tiles(w, BLOCK).dense()).any()


@pytest.mark.parametrize(
    ("scales", "where", "expected"),
    [("float32", "tpu", "scaled"), ("ue8m0", "tpu", "bfloat16"), ("ue8m0", "cpu", "scaled")],
)
def test_the_product_is_chosen_where_it_is_exact_and_faster(monkeypatch, scales, where, expected):
    monkeypatch.setattr(fp8_module, "platform", lambda: where)
    assert fp8_module.product_of(Fp8Config(scales=scales)) is fp8_module.PRODUCTS[expected]


def test_the_error_against_float32_is_that_of_three_bits(arrays):
    """About 2^-4 / sqrt(3) per operand for values of one size; less than 6 % in all products."""
    x, weights, gradients = arrays
    outputs, dx, weight_gradients = pulled(Fp8Config(), "e4m3", *arrays)
    pairs = [
        (outputs[0], x @ weights[0]),
        (dx, sum(dy @ w.T for dy, w in zip(gradients, weights))),
        (weight_gradients[0], np.einsum("btk,btn->kn", x, gradients[0])),
    ]
    for found, exact in pairs:
        error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        assert 0.01 < error < 0.06


def test_gradients_of_any_size_are_rounded_alike(arrays):
    """A loss averaged over 2^40 tokens has the same gradients, 2^40 times smaller."""
    x, weights, gradients = arrays
    small = tuple(dy * np.float32(2.0**-40) for dy in gradients)
    _, dx, weight_gradients = pulled(Fp8Config(), "e4m3", *arrays)
    _, small_dx, small_weight_gradients = pulled(Fp8Config(), "e4m3", x, weights, small)
    np.testing.assert_array_equal(small_dx * np.float32(2.0**40), dx)
    np.testing.assert_array_equal(
        small_weight_gradients[0] * np.float32(2.0**40), weight_gradients[0]
    )


def test_the_batch_may_be_split_anywhere(arrays):
    x, weights, gradients = arrays
    _, dx, together = pulled(Fp8Config(), "e4m3", *arrays)
    apart = [
        pulled(Fp8Config(), "e4m3", x[b : b + 1], weights, tuple(dy[b : b + 1] for dy in gradients))
        for b in range(B)
    ]
    np.testing.assert_array_equal(np.concatenate([part[1] for part in apart]), dx)
    assert_near(sum(part[2][0] for part in apart), np.asarray(together[0]))


def test_bf16_in_bf16_out_and_float32_gradients_of_weights(arrays):
    x, weights, gradients = arrays
    low = [dy.astype(jnp.bfloat16) for dy in gradients]
    outputs, dx, weight_gradients = pulled(
        Fp8Config(), "e4m3", x.astype(jnp.bfloat16), weights, tuple(low)
    )
    assert outputs[0].dtype == dx.dtype == jnp.bfloat16
    assert weight_gradients[0].dtype == jnp.float32


def test_what_the_backward_pass_keeps_is_in_fp8(arrays):
    """One byte per entry of x and w, and the scales."""
    x, weights, _ = arrays
    _, pull = jax.vjp(lambda x, weights: linear(x, weights, Fp8Config()), x, weights)
    kept = sum(a.nbytes for a in jax.tree.leaves(pull) if hasattr(a, "nbytes"))
    entries = x.size + sum(w.size for w in weights)
    assert entries < kept < 1.05 * entries
