"""The latent cache in bfloat16 and in FP8: its size, how far it is from the truth, and that
decoding from it works, on a mesh too."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from configs.v3 import config as v3
from seekjax.config import KernelConfig
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.model.abstract import abstract_variables
from seekjax.model.attention.mla import dequantize_latents, quantize_latents
from seekjax.model.cache import cache_bytes, cache_dtype, empty_cache, layer_cache
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig
from tests.fixtures import tiny_model

MODEL = tiny_model(
    vocab=48,
    layers=1,
    heads=4,
    value=12,
    hidden=512,
    init_std=0.006,
    dense_layers=0,
    context=64,
    mtp_depth=0,
)


@pytest.mark.parametrize(
    ("kind", "bytes_per_token"), [("float32", 2304), ("bfloat16", 1152), ("fp8", 512 + 16 + 128)]
)
def test_bytes_per_token_and_layer_of_v3(kind, bytes_per_token):
    """656 is FlashMLA's figure."""
    assert (
        sum(
            x.size * x.dtype.itemsize
            for x in jax.tree.leaves(jax.eval_shape(lambda: layer_cache(v3.model, 1, 1, kind)))
        )
        == bytes_per_token
    )
    whole = jax.eval_shape(lambda: empty_cache(v3.model, 1, 1, kind))
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(whole)) == 61 * bytes_per_token


@pytest.mark.parametrize(
    ("kind", "most"), [("float32", 0), ("bfloat16", 2.0**-8), ("fp8", 2.0**-4)]
)
def test_what_comes_back(kind, most):
    model = replace(MODEL, kv_latent=256)
    random = np.random.default_rng(0)
    c, k = (random.standard_normal((2, 3, width)).astype(np.float32) * 5 for width in (256, 8))
    cache = layer_cache(model, 2, 3, kind)
    stored = {
        name: x.astype(cache[name].dtype) for name, x in quantize_latents(cache, c, k).items()
    }
    assert cache_bytes(stored) == cache_bytes(cache)
    assert {name: x.shape for name, x in stored.items()} == {
        name: x.shape for name, x in cache.items()
    }
    for x, found, bound in zip(
        (c, k), dequantize_latents(stored, "float32"), (most, min(most, 2.0**-8))
    ):
        assert (np.abs(found - x) <= bound * np.maximum(np.abs(x), 0.01 * np.abs(x).max())).all()


def test_same_means_as_the_compute_type():
    assert [
        cache_dtype(KernelConfig(dtype=dtype, cache=cache))
        for dtype, cache in (("bfloat16", "same"), ("float32", "fp8"))
    ] == ["bfloat16", "fp8"]


@pytest.mark.parametrize("kind", ["bfloat16", "fp8"])
def test_decoding(kind):
    random, kernel = np.random.default_rng(0), KernelConfig(attention="plain")
    variables = jax.tree.map(
        lambda x: jax.numpy.asarray(
            random.normal(0, 0.15, x.shape) if len(x.shape) > 1 else np.ones(x.shape), x.dtype
        ),
        abstract_variables(MODEL, kernel),
    )
    prompts = [random.integers(0, 48, length).tolist() for length in (9, 4)]

    def written(cache):
        return Generator(MODEL, variables, replace(kernel, cache=cache))(
            prompts, Sampling(max_new=8, temperature=0)
        )

    whole, found = written("same"), written(kind)
    for a, b in zip(whole, found):  # until a token differs, they have read the same text
        same = next((i for i, pair in enumerate(zip(a.ids, b.ids)) if len(set(pair)) > 1), 8)
        assert same > 1
        np.testing.assert_allclose(
            a.log_probs[:same], b.log_probs[:same], atol=0.02 if kind == "bfloat16" else 0.2
        )
    if kind == "fp8":
        with use_mesh(MeshConfig(data=2, expert=2)):
            assert [row.ids for row in written(kind)] == [row.ids for row in found]
