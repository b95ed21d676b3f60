"""Every run in configs/ passes validation; those unlike V3 train, shrunk in widths and depth."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.commands.arguments import config_names, load_config, parse
from seekjax.config import Config, ModelConfig
from seekjax.placement import use_mesh
from seekjax.post.names import check_names
from seekjax.train.state import RunSpec
from seekjax.train.step import compile_steps
from seekjax.train.validate import validate
from seekjax.workflow import Workflow
from sharding.mesh import MeshConfig, abstract_mesh
from tests.fixtures import PLAIN

WIDTHS = {
    "embed": 16, "hidden": 16, "expert_hidden": 8, "vocab": 64, "heads": 2, "value": 4, "experts": 8
}  # fmt: skip
WIDTHS_OR_ZERO = {"q_latent": 8, "kv_latent": 8, "nope": 4, "rotary": 4}


def shrunk(model: ModelConfig) -> ModelConfig:
    """The same model, narrow, with one layer of experts."""
    small = {name: size if getattr(model, name) else 0 for name, size in WIDTHS_OR_ZERO.items()}
    groups = math.gcd(model.expert_groups, 4)
    routing = {
        "expert_groups": groups,
        "groups_per_token": min(model.groups_per_token, groups),
        "experts_per_token": min(model.experts_per_token, 2),
    }
    return replace(model, **WIDTHS, **small, **routing, layers=1, dense_layers=0, context=32)


@pytest.mark.parametrize("name", config_names())
def test_every_config_could_begin(name):
    config = load_config(name)
    if isinstance(config, Workflow):
        lines = config.lines(parse(["tiny"], "").out, 0).values()
        for words in lines:
            if words[0] == "train.py":
                check_names(parse(words[1:], "train.py"))
        return
    check_names(config)
    validate(config, partial(abstract_mesh, devices=config.train.rows))


# Models with all of V3's parts train in many other tests; V2-Lite is V2 without a query latent.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["moe_16b", "v2"])
def test_a_published_model_trains_two_steps_in_small(name):
    config = load_config(name)
    train = replace(config.train, steps=2, batch=2, micro_batch=0, batch_start=0, batch_ramp=0)
    config = Config(
        model=shrunk(config.model),
        data=replace(config.data, sequence=8),
        optimizer=config.optimizer,
        kernel=PLAIN,
        train=train,
    )
    with use_mesh(MeshConfig(data=1)):
        spec = RunSpec(config)
        state = spec.start()
        before = jax.device_get(state.params)
        tokens = np.arange(18).reshape(1, 2, 9) % 64
        batch = {"tokens": jnp.asarray(tokens), "segments": jnp.ones_like(tokens)}
        step = compile_steps(spec, np.ones(64))[0]
        for _ in range(2):
            state, metrics = step(state, batch)

    assert math.isfinite(metrics["loss"])
    moved = jax.tree.map(lambda old, new: np.any(old != new), before, jax.device_get(state.params))
    assert all(jax.tree.leaves(moved))
