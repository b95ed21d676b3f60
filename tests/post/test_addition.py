"""The smoke test of reinforcement, from nothing: a base model that has read sums by somebody who forgets every second carry learns to carry, because right
answers pay; where rewards are dealt out regardless of the answer it does not."""

from dataclasses import replace

import pytest
from configs.countdown import config as countdown
from configs.grpo import config as grpo
from seekjax.config import GrpoConfig, SftConfig
from seekjax.post.grpo import Reinforcement
from seekjax.post.sft import FineTuning
from seekjax.train import metrics
from seekjax.train.loop import fit
from sharding.mesh import MeshConfig

ONE, TASK = MeshConfig(data=1), ("addition:3",)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("base")
    fit(replace(countdown, mesh=ONE, out=out, data=replace(countdown.data, sequence=192), optimizer=replace(countdown.optimizer, warmup=30),
                train=replace(countdown.train, steps=600, log_every=100, eval_every=600, save_every=600),
                post=SftConfig(tasks=TASK, template="v3", attempts=1.0)), FineTuning)
    return out


def accuracy(base, out, steps, **post):
    """On held-out problems, at the end."""
    fit(replace(grpo, init=base, out=out, mesh=ONE, data=replace(grpo.data, sequence=88),
                train=replace(grpo.train, steps=steps, eval_every=steps, save_every=steps),
                post=GrpoConfig(tasks=TASK, max_new=72, kl=0.0, **post)), Reinforcement)
    return next(one["accuracy"] for one in metrics.read(out) if one["split"] == "held_out")


def test_right_answers_that_pay_teach_to_carry_and_dealt_rewards_do_not(base, tmp_path):
    dealt = accuracy(base, tmp_path / "dealt", 8, rewards=(("benchmarks.dealt:reward", 1.0), ("accuracy", 0.0)))
    assert accuracy(base, tmp_path / "paid", 30) >= max(dealt, metrics.read(tmp_path / "paid")[0]["accuracy"]) + 0.2
