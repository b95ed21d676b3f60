"""The promise that a researcher changes one thing in one place: each idea from outside the package.

CONTRIBUTING.md has the table. Every idea is one file in tests/scripts/, named as `module:name`. A
run of all of them trains for some steps on one device, saves, and resumes on eight half-way, where
it becomes the same model. A kind of attention has a test of its own:
tests/model/test_own_attention.py.
"""

from collections import Counter
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
from seekjax.registry import load_object
from seekjax.train import metrics
from seekjax.train.loop import fit
from tests.fixtures import PLAIN, copy_as_of, tiny_model

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.mesh]

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
SCORE = f"{SCRIPTS}.own_score:sqrt_softplus"
OPTIMIZER = f"{SCRIPTS}.own_optimizer:factored"
SOURCE = f"{SCRIPTS}.own_source:proverbs"
EXCHANGE = f"{SCRIPTS}.own_exchange:in_two_rounds"

# Each idea is one field of the config, and none knows of another.
CONFIG = replace(
    BASE,
    model=replace(BASE.model, scoring=SCORE),
    optimizer=replace(BASE.optimizer, name=OPTIMIZER),
    data=replace(BASE.data, sources=(SOURCE,)),
    kernel=replace(BASE.kernel, dispatch=EXCHANGE),
)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run on one device, and how often the functions of each idea were called."""
    calls = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for name in (SCORE, OPTIMIZER, SOURCE, EXCHANGE):
            count_calls(patch, name, calls)
        fitted = fit(replace(CONFIG, out=tmp_path_factory.mktemp("one") / "run"))
    return fitted, calls


def count_calls(patch, name, calls):
    """Replace a function of an idea by itself and a count."""
    module, _, attribute = name.partition(":")
    function = load_object(name, "idea")

    def counted(*arguments, **settings):
        calls[name] += 1
        return function(*arguments, **settings)

    patch.setattr(f"{module}.{attribute}", counted)


def test_ideas_from_outside_train_and_save(one):
    fitted, _ = one
    assert fitted.finished
    for bias in jax.tree.leaves(jax.device_get(fitted.state.balance)):
        assert np.abs(bias).max() > 0

    opened = open_model(fitted.folder, trust=True)
    assert opened.model == CONFIG.model
    jax.tree.map(np.testing.assert_array_equal, opened.variables["params"], fitted.state.params)


@pytest.mark.parametrize("name", [SCORE, OPTIMIZER, SOURCE, EXCHANGE])
def test_each_idea_is_what_the_run_was_made_of(one, name):
    _, calls = one
    assert calls[name] > 0


def test_they_resume_on_eight_devices(one, tmp_path):
    fitted, _ = one
    copy_as_of(2, fitted.folder, tmp_path / "eight")
    halfway = open_model(tmp_path / "eight", trust=True).variables["params"]
    eight = fit(replace(CONFIG, out=tmp_path / "eight", mesh=EIGHT))
    assert eight.finished
    assert int(eight.state.step) == 4

    losses = [row["loss"] for row in metrics.read(eight.folder) if row["split"] == "train"]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    for before, after in zip(leaves(halfway), leaves(eight.state.params), strict=True):
        assert (before != after).any()
    for alone, split in zip(leaves(fitted.state.params), leaves(eight.state.params), strict=True):
        np.testing.assert_allclose(alone, split, rtol=2e-3, atol=2e-4)


def leaves(params):
    """Parameters as host arrays."""
    return jax.tree.leaves(jax.device_get(params))
