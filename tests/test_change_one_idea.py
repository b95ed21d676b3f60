"""The promise that a researcher changes one thing in one place: each idea from outside the package.

CONTRIBUTING.md has the table. Every idea is one file in tests/scripts/, named as `module:name`,
trained for some steps on one device, saved, and resumed on eight half-way, where it becomes the
same model. A kind of attention has a test of its own: tests/model/test_own_attention.py.
"""

from dataclasses import replace

import jax
import numpy as np
import pytest

from seekjax.config import (
    Config,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)
from seekjax.open import open_model
from seekjax.train import metrics
from seekjax.train.loop import fit
from tests.fixtures import PLAIN, copy_as_of, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.mesh]

BASE = Config(
    model=tiny_model(heads=4, dense_layers=0, mtp_depth=0),
    data=DataConfig(sources=("arithmetic",), tokenizer="byte", sequence=32),
    optimizer=OptimizerConfig(warmup=1),
    kernel=PLAIN,
    train=TrainConfig(steps=4, batch=8, eval_every=4, eval_batches=1, save_every=2, log_every=1),
    mesh=MeshConfig(data=1),
)
EIGHT = MeshConfig(data=2, expert=2, tensor=2)

SCRIPTS = "tests.scripts"
IDEAS = {
    "router score": replace(
        BASE, model=replace(BASE.model, scoring=f"{SCRIPTS}.own_score:sqrt_softplus")
    ),
    "optimizer": replace(
        BASE, optimizer=replace(BASE.optimizer, name=f"{SCRIPTS}.own_optimizer:factored")
    ),
    "data source": replace(
        BASE, data=replace(BASE.data, sources=(f"{SCRIPTS}.own_source:proverbs",))
    ),
    "exchange": replace(
        BASE, kernel=replace(BASE.kernel, dispatch=f"{SCRIPTS}.own_exchange:in_two_rounds")
    ),
}


@pytest.mark.parametrize("name", IDEAS)
def test_an_idea_from_outside_trains_saves_and_resumes_on_eight_devices(name, tmp_path):
    config = replace(IDEAS[name], out=tmp_path / "one")
    one = fit(config)
    assert one.finished
    for bias in jax.tree.leaves(one.state.balance):
        assert np.abs(bias).max() > 0

    opened = open_model(config.out, trust=True)
    assert opened.model == config.model
    jax.tree.map(np.testing.assert_array_equal, opened.variables["params"], one.state.params)

    copy_as_of(2, config.out, tmp_path / "eight")
    halfway = open_model(tmp_path / "eight", trust=True).variables["params"]
    eight = fit(replace(config, out=tmp_path / "eight", mesh=EIGHT))
    assert eight.finished
    assert int(eight.state.step) == 4

    losses = [row["loss"] for row in metrics.read(eight.folder) if row["split"] == "train"]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    for before, after in zip(jax.tree.leaves(halfway), leaves(eight), strict=True):
        assert (before != after).any()
    for alone, split in zip(leaves(one), leaves(eight), strict=True):
        np.testing.assert_allclose(alone, split, rtol=2e-3, atol=2e-4)


def leaves(fitted):
    """The parameters of a run, as host arrays."""
    return jax.tree.leaves(jax.device_get(fitted.state.params))
