"""A router score from outside the package; tests/test_change_one_idea.py trains with it."""

from dataclasses import replace

import numpy as np
import pytest

from seekjax.errors import ConfigError
from seekjax.model.check import check_model
from seekjax.model.routing import affinity
from tests.fixtures import tiny_model

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
