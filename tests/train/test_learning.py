"""That a run learns what there is to learn, and that the bias is what balances the experts."""

from dataclasses import replace

import numpy as np
import pytest

from seekjax.config import (
    Config,
    DataConfig,
    KernelConfig,
    ModelConfig,
    OptimizerConfig,
    Piece,
    TrainConfig,
)
from seekjax.data.sources import stories
from seekjax.train import metrics
from seekjax.train.loop import fit
from sharding.mesh import MeshConfig

pytestmark = [pytest.mark.long, pytest.mark.slow]

STEPS = 100
CONFIG = Config(
    model=ModelConfig(
        vocab=512,
        embed=64,
        layers=1,
        dense_layers=0,
        heads=4,
        q_latent=32,
        kv_latent=32,
        nope=16,
        rotary=16,
        value=16,
        expert_hidden=64,
        experts=8,
        experts_per_token=2,
        mtp_depth=0,
        init_std=0.1,
    ),
    data=DataConfig(sources=("stories",), sequence=64),
    optimizer=OptimizerConfig(
        learning_rate=1e-2,
        schedule=(
            Piece(until=0.5, to=1.0),
            Piece(until=1.0, to=0.05, shape="cosine"),
        ),
    ),
    mesh=MeshConfig(data=1),
    kernel=KernelConfig(attention="plain", remat="none"),
    train=TrainConfig(
        steps=STEPS,
        batch=8,
        log_every=1,
        eval_every=STEPS,
        eval_batches=8,
        save_every=STEPS,
        balance_rate=0.01,
        balance_loss=0.0,
    ),
)


@pytest.fixture(scope="module", autouse=True)
def few_stories():
    """The entropy per token from 2,000 stories, to 0.3 %."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stories, "SAMPLE", 2_000)
        yield


@pytest.fixture(scope="module")
def balanced(tmp_path_factory):
    return metrics.read(fit(replace(CONFIG, out=tmp_path_factory.mktemp("balanced"))).folder)


def late_violation(records):
    """Of the second half of a run."""
    violations = [record["max_violation"] for record in records if record["split"] == "train"]
    return np.mean(violations[len(violations) // 2 :])


def test_the_loss_comes_near_the_entropy_of_the_stories_and_never_under_it(balanced):
    excess = balanced[-1]["above_entropy/stories"]
    assert balanced[-1]["split"] == "held_out"
    assert -0.02 < excess < 0.7


def test_the_bias_keeps_the_experts_balanced_and_nothing_else_does(balanced, tmp_path):
    train = replace(CONFIG.train, balance_rate=0.0, steps=STEPS // 2)
    alone = metrics.read(fit(replace(CONFIG, out=tmp_path, train=train)).folder)
    assert late_violation(balanced) < 0.5 < late_violation(alone)
    assert balanced[-2]["layer_bias_norm"][0] > 0 == alone[-2]["layer_bias_norm"][0]
