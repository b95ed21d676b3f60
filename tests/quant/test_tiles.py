"""FP8 in tiles, and E5M6: every value is the nearest one, every scale that of its own tile."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from seekjax.quant import e5m6, fp8
from seekjax.quant.tiles import BLOCK, COLUMN, ROW, in_e5m6, in_tiles
from tests.reference import fp8 as reference

TILES = {"row": ROW, "column": COLUMN, "block": BLOCK}


def drawn(*shape):
    """Values over eight powers of ten, some of them zero."""
    random = np.random.default_rng(0)
    x = random.standard_normal(shape) * 10.0 ** random.uniform(-6, 2, shape)
    return np.where(random.random(shape) < 0.1, 0, x).astype(np.float32)


@pytest.mark.parametrize("scales", ["float32", "ue8m0"])
@pytest.mark.parametrize("tile", TILES)
def test_equals_the_reference_with_ragged_edges(tile, scales):
    x = drawn(2, 200, 300)
    tiled = jax.jit(in_tiles, static_argnums=(1, 2))(x, TILES[tile], scales)
    for number in range(2):
        values, scale = reference.rounded(x[number], *TILES[tile], scales == "ue8m0")
        np.testing.assert_array_equal(np.float32(tiled.values[number]), values)
        np.testing.assert_array_equal(tiled.scale_of_each()[number], scale)
        np.testing.assert_allclose(tiled.dense()[number], values * scale, rtol=1e-7)
    np.testing.assert_array_equal(tiled.T.dense(), tiled.dense().swapaxes(-1, -2))


def test_the_largest_value_of_a_tile_is_exact_and_the_rest_within_half_a_step():
    x = drawn(256, 256)
    error = np.abs(in_tiles(x, ROW).dense() - x)
    scale = in_tiles(x, ROW).scale_of_each()
    assert (error <= np.maximum(np.abs(x) * 2.0**-4, scale * 2.0**-10) * (1 + 1e-6)).all()
    largest = np.abs(x).reshape(256, 2, 128).max(-1)
    stored = np.abs(in_tiles(x, ROW).dense()).reshape(256, 2, 128).max(-1)
    np.testing.assert_allclose(stored, largest, rtol=1e-6)


def test_an_outlier_costs_only_its_own_tile():
    x = np.full((1, 256), 0.01, np.float32)
    x[0, 0] = 1e4
    stored = in_tiles(x, ROW).dense()
    assert not np.asarray(stored[0, 1:128]).any()
    np.testing.assert_allclose(stored[0, 128:], 0.01, rtol=1e-6)


def test_zeros_stay_zeros():
    tiled = in_tiles(jnp.zeros((3, 130)), ROW)
    np.testing.assert_array_equal(tiled.dense(), 0)
    np.testing.assert_array_equal(tiled.scale, np.float32(1e-4) / np.float32(448))


def test_powers_of_two_are_rounded_up():
    scale = np.array([1.0, 1.0000001, 1.5, 2.0, 3.0, 1e-7, 2.0**-20], np.float32)
    expected = np.array([1, 2, 2, 2, 4, 2.0**-23, 2.0**-20], np.float32)
    np.testing.assert_array_equal(fp8.power_of_two(scale), expected)
    np.testing.assert_array_equal(fp8.power_of_two(jnp.asarray(scale)), expected)


def test_e4m3_of_the_reference_is_that_of_the_format():
    """What the other tests trust: every finite value of E4M3, and halves between neighbours."""
    codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    values = np.sort(codes[np.isfinite(codes)])
    np.testing.assert_array_equal(reference.e4m3(values), values)
    halves = (values[1:] + values[:-1]) / 2
    expected = halves.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    np.testing.assert_array_equal(reference.e4m3(halves), expected)


def test_e5m6_is_float16_with_a_shorter_mantissa():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    every = every[np.isfinite(every)]
    stored = np.asarray(e5m6.rounded(jnp.asarray(every)), np.float32)
    np.testing.assert_array_equal(stored, reference.e5m6(every))
    np.testing.assert_array_equal(stored[np.abs(stored) >= 2**-14].view(np.uint32) % 2**17, 0)
    # 2 signs, 31 exponents, 64 mantissas; both zeros are one value
    assert len(np.unique(stored)) == 2 * 31 * 64 - 1


def test_e5m6_in_tiles():
    x = drawn(3, 200)
    tiled = in_e5m6(jnp.asarray(x), ROW)
    values, scale = reference.rounded(x, *ROW, True, reference.e5m6, 65024.0)
    np.testing.assert_array_equal(np.float32(tiled.values), values)
    np.testing.assert_array_equal(tiled.scale_of_each(), scale)
