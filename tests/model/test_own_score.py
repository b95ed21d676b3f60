"""A router score from outside the package: it trains a few steps, and is saved and restored."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from seekjax.config import (
    Config,
    DataConfig,
    OptimizerConfig,
    TrainConfig,
)
from seekjax.errors import ConfigError
from seekjax.model.check import check_model
from seekjax.model.routing import affinity
from seekjax.open import open_model
from seekjax.train.loop import fit
from sharding.mesh import MeshConfig
from tests.fixtures import PLAIN, tiny_model

MODEL = tiny_model(
    layers=1,
    q_latent=0,
    hidden=512,
    init_std=0.006,
    scoring="tests.scripts.own_score:sqrt_softplus",
    dense_layers=0,
    mtp_depth=0,
)


def test_the_router_uses_it():
    logit_BTE = np.linspace(-3, 3, 8, dtype=np.float32).reshape(1, 1, 8)
    expected = np.sqrt(np.log1p(np.exp(logit_BTE.astype(float))))
    np.testing.assert_allclose(affinity(logit_BTE, MODEL), expected, rtol=1e-6)


def test_a_name_that_does_not_exist_is_one_sentence():
    with pytest.raises(ConfigError, match=r"there is no router score 'sigmoidd'.*'sigmoid'"):
        check_model(replace(MODEL, scoring="sigmoidd"))
    with pytest.raises(ConfigError, match="does not define softplus"):
        check_model(replace(MODEL, scoring="tests.scripts.own_score:softplus"))


def test_it_trains_and_comes_back(tmp_path):
    config = Config(
        model=MODEL,
        data=DataConfig(sources=("stories",), tokenizer="byte", sequence=32),
        optimizer=OptimizerConfig(warmup=1),
        mesh=MeshConfig(data=1),
        kernel=PLAIN,
        train=TrainConfig(
            steps=3, batch=4, log_every=1, eval_every=3, eval_batches=1, save_every=3
        ),
        out=tmp_path,
    )
    state = fit(config).state
    assert int(state.step) == 3
    assert np.abs(np.asarray(jax.tree.leaves(state.balance)[0])).max() > 0

    opened = open_model(tmp_path, trust=True)
    assert opened.model.scoring == MODEL.scoring
    jax.tree.map(np.testing.assert_array_equal, opened.variables["params"], state.params)
