"""Blocks of FP8 against element-by-element oracles, ragged edges included, and back to the bit."""

import numpy as np
import pytest

from seekjax.hf.fp8_blocks import blocks, dequantise, quantise
from seekjax.quant.fp8 import E4M3

SHAPES = [(128, 128), (576, 300), (129, 1), (1, 129), (127, 257), (5, 3)]


def matrix(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * np.exp(rng.normal(size=shape) * 2)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_dequantise_multiplies_each_element_by_the_scale_of_its_block(shape):
    rng = np.random.default_rng(1)
    x, scale = (
        np.clip(matrix(shape), -448, 448).astype(E4M3),
        rng.uniform(1e-3, 2, blocks(shape)).astype(np.float32),
    )
    expected = np.array(
        [
            [np.float32(x[i, j]) * scale[i // 128, j // 128] for j in range(shape[1])]
            for i in range(shape[0])
        ]
    )
    assert np.array_equal(dequantise(x, scale), expected)


@pytest.mark.parametrize("ue8m0", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_quantise(shape, ue8m0):
    w = matrix(shape)
    x, scale = quantise(w, ue8m0)
    assert x.dtype == E4M3
    assert x.shape == shape
    assert scale.dtype == np.float32
    assert scale.shape == blocks(shape)
    for i, j in np.ndindex(scale.shape):
        largest = np.abs(w[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)]).max()
        if ue8m0:
            assert np.log2(scale[i, j]) % 1 == 0
            assert scale[i, j] / 2 < largest / 448 <= scale[i, j]
        else:
            assert scale[i, j] == pytest.approx(largest / 448, rel=1e-6)
    spread = np.repeat(np.repeat(scale, 128, 0), 128, 1)[: shape[0], : shape[1]]
    assert (
        np.abs(dequantise(x, scale) - w) <= np.maximum(np.abs(w) * 2.0**-4, spread * 2.0**-10)
    ).all()


def test_what_the_rule_made_comes_back_to_the_bit():
    for seed in range(40):
        x, scale = quantise(matrix((200, 150), seed))
        again = quantise(dequantise(x, scale))
        assert np.array_equal(again[0].view(np.uint8), x.view(np.uint8))
        assert np.array_equal(again[1], scale)


@pytest.mark.parametrize("ue8m0", [False, True])
def test_known_scales_come_back_where_nothing_changed(ue8m0):
    rng = np.random.default_rng(0)
    x = rng.uniform(-300, 300, (500, 140)).astype(E4M3)
    known = rng.uniform(1e-6, 1, blocks(x.shape)).astype(np.float32)
    w = dequantise(x, known)
    again = quantise(w, ue8m0, known)
    assert np.array_equal(again[0].view(np.uint8), x.view(np.uint8))
    assert np.array_equal(again[1], known)
    w[130, 130] = 1e3
    again = quantise(w, ue8m0, known)[1]
    assert np.argwhere(again != known).tolist() == [[1, 1]]
    assert again[1, 1] >= np.float32(1e3 / 448)


def test_zeros_and_the_largest_values_stay_finite():
    for w in (
        np.zeros((3, 3), np.float32),
        np.full((3, 3), 3e38, np.float32),
        np.full((3, 3), 1e-30, np.float32),
    ):
        assert np.isfinite(dequantise(*quantise(w))).all()
