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
    init_std=0.006,
    dense_layers=1,
    context=64,
    mtp_depth=0,
)


@pytest.mark.parametrize(
    ("kind", "bytes_per_token"), [("float32", 2304), ("bfloat16", 1152), ("fp8", 512 + 16 + 128)]
)
def test_bytes_per_token_and_layer_of_v3(kind, bytes_per_token):
    """656 is FlashMLA's figure."""
    one_layer = jax.eval_shape(lambda: layer_cache(v3.model, 1, 1, kind))
    all_layers = jax.eval_shape(lambda: empty_cache(v3.model, 1, 1, kind))
    assert abstract_bytes(one_layer) == bytes_per_token
    assert abstract_bytes(all_layers) == 61 * bytes_per_token


def abstract_bytes(cache):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))


@pytest.mark.parametrize(
    ("kind", "error"), [("float32", 0), ("bfloat16", 2.0**-8), ("fp8", 2.0**-4)]
)
def test_dequantised_latents_are_near_the_stored_ones(kind, error):
    model = replace(MODEL, kv_latent=256)
    random = np.random.default_rng(0)
    c = random.standard_normal((2, 3, 256)).astype(np.float32) * 5
    k = random.standard_normal((2, 3, 8)).astype(np.float32) * 5

    cache = layer_cache(model, 2, 3, kind)
    entries = quantize_latents(cache, c, k)
    stored = {name: x.astype(cache[name].dtype) for name, x in entries.items()}
    assert cache_bytes(stored) == cache_bytes(cache)
    assert jax.tree.map(np.shape, stored) == jax.tree.map(np.shape, cache)

    read_c, read_k = dequantize_latents(stored, "float32")
    assert_near(read_c, c, error)
    assert_near(read_k, k, min(error, 2.0**-8))


def assert_near(read, x, error):
    assert (np.abs(read - x) <= error * np.maximum(np.abs(x), 0.01 * np.abs(x).max())).all()


def test_same_means_as_the_compute_type():
    assert cache_dtype(KernelConfig(dtype="bfloat16", cache="same")) == "bfloat16"
    assert cache_dtype(KernelConfig(dtype="float32", cache="fp8")) == "fp8"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bfloat16", "fp8"])
def test_decoding(kind):
    random = np.random.default_rng(0)
    kernel = KernelConfig(attention="plain")

    def value(x):
        array = random.normal(0, 0.15, x.shape) if len(x.shape) > 1 else np.ones(x.shape)
        return jax.numpy.asarray(array, x.dtype)

    variables = jax.tree.map(value, abstract_variables(MODEL, kernel))
    prompts = [random.integers(0, 48, length).tolist() for length in (9, 4)]

    def generate(cache):
        generator = Generator(MODEL, variables, replace(kernel, cache=cache))
        return generator(prompts, Sampling(max_new=8, temperature=0))

    exact, quantised = generate("same"), generate(kind)
    tolerance = 0.02 if kind == "bfloat16" else 0.2
    for a, b in zip(exact, quantised):
        # until a token differs, they have read the same text
        differ = [i for i, (one, other) in enumerate(zip(a.ids, b.ids)) if one != other]
        same = min(differ, default=8)
        assert same > 1
        np.testing.assert_allclose(a.log_probs[:same], b.log_probs[:same], atol=tolerance)

    if kind == "fp8":
        with use_mesh(MeshConfig(data=2, tensor=2)):
            assert [row.ids for row in generate(kind)] == [row.ids for row in quantised]
