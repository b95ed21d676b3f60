"""The counts against the arrays the model really declares: shapes only, so 671B costs nothing."""

import importlib
import math
from dataclasses import replace

import jax
import pytest

from seekjax.config import ModelConfig
from seekjax.model.abstract import named_variables
from seekjax.model.cache import empty_cache
from seekjax.model.count import cache_elements, parameters
from sharding.place import unbox

TINY = ModelConfig()
MODELS = {
    "tiny": TINY,
    "no query latent": replace(TINY, q_latent=0),
    "two depths": replace(TINY, mtp_depth=2),
    "no shared experts": replace(TINY, shared_experts=0),
    "all dense": replace(TINY, dense_layers=4),
    "no dense": replace(TINY, dense_layers=0),
    "mha": replace(TINY, attention="mha", nope=0, rotary=32),
    **{
        name: importlib.import_module(f"configs.{name}").config.model
        for name in ("moe_16b", "v2_lite", "v2", "v3")
    },
}


def size(tree) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(unbox(tree)))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_what_the_model_declares(name):
    model = MODELS[name]
    declared = named_variables(model)
    count = parameters(model)
    modules = model.mtp_depth if model.layers > model.dense_layers else 0
    biases = count.router_bias + (modules * model.experts if model.group_score == "top2" else 0)
    assert size(declared["params"]) == count.total + count.mtp - biases
    layers = model.layers - model.dense_layers + modules
    assert size(declared["balance"]) == layers * model.experts


@pytest.mark.parametrize("name", MODELS)
def test_cache_is_what_the_model_keeps(name):
    assert size(jax.eval_shape(lambda: empty_cache(MODELS[name], 1, 1))) == cache_elements(
        MODELS[name]
    )
